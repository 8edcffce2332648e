//! Keyward: an authenticating, TLS-terminating, RESP-aware proxy for Redis and Valkey.
//!
//! # How it is built
//!
//! A **pure core** decides, a **thin shell** moves bytes. The core ([`resp`], [`acl`], [`auth`], [`session`]) knows no
//! runtime, no sockets, no clock and no files; that is what makes it testable against Redis itself, fuzzable and fast.
//!
//! ```text
//!  accept ─► permit ─► worker ─► PROXY header, TLS ─► relay ─────────────────────────────────► close
//!  (server::acceptor)  (server::worker)  (net, tls)     │
//!                                                       ▼
//!            client bytes ─► RequestScanner ─► Session ─► lane ─► Redis        (resp, session, upstream)
//!            client bytes ◄─ Session ◄─ ReplyScanner ◄─ lane ◄─ Redis
//! ```
//!
//! One thread per core, each with its own runtime, and no lock on a session's data path. Sessions are packed on few
//! workers as long as these keep up, since requests that share a connection to Redis travel in batches; a session at rest
//! changes workers when its own is busy (`server::packing`). Idle connections hold no buffers. Everything counted is a guard, every queue and wait has a bound, and
//! decisions are values whose reason knows its reply, its metric label and its audit word.
//!
//! # Layers
//!
//! Each module may use only those above it in this list (`tests/layering.rs` holds it to that):
//! [`secret`] [`drain`] [`resp`] [`status`] · [`acl`] [`config`] · [`auth`] [`limits`] [`net`] · [`session`] [`audit`] [`tls`] ·
//! [`metrics`] · [`upstream`] [`admin`] · [`server`] · [`cli`].
//!
//! # Lexicon
//!
//! *downstream* the client's side · *upstream* Redis's side · *listener* an address clients connect to · *connection* a
//! socket and its task · *session* the protocol state of one client · *lane* an upstream connection as a session sees it
//! · *user*, *rule*, *category* as in Redis's ACL · *drain* to end without taking anything from a client · *lockout* what
//! a source gets that guesses passwords.
//!
//! # Where a change goes
//!
//! | change | file |
//! |---|---|
//! | a new Redis command | `acl/commands.rs`, one row; `tests/command_table.rs` tells what drifted |
//! | a command that changes connection state | `session/mod.rs` |
//! | a wire detail | `resp/` |
//! | where a command names keys | `acl/commands.rs`, a column; `acl/keys/columns.rs` says what the columns mean |
//! | how passwords are guessed | `limits/throttle` and its neighbours |
//! | who a client is without AUTH | `auth/evidence.rs`, `tls/identity.rs` |
//! | a limit or timeout | `limits/`, `config/`, a metric |
//! | a metric | `metrics/` only, then `WRITE_REFERENCE=1 cargo test --test docs` for its page |
//! | a security event | `audit/` |
//! | what the status page says | `status/`; a problem in words: `status/problems.rs` |
//! | a configuration key | `config/schema.rs` and `deploy/keyward.toml`, then the same for its page |

pub mod acl;
pub mod admin;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod config;
pub mod drain;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod resp;
pub mod secret;
pub mod server;
pub mod session;
pub mod status;
pub mod tls;
pub mod upstream;
