//! Keyward: an authenticating, TLS-terminating, RESP-aware proxy for Redis and Valkey.

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
pub mod tls;
pub mod upstream;
