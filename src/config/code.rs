//! The stable codes of messages: `KW01xx` form, `KW02xx` meaning, `KW03xx` files, `KW04xx` security; what only
//! building finds: `KW05xx` ACL rules, `KW06xx` certificates and passwords, `KW07xx` reloads.

/// The file is not TOML.
pub const SYNTAX: &str = "KW0101";
/// A key or table that does not exist.
pub const UNKNOWN_KEY: &str = "KW0102";
/// A value of the wrong type.
pub const WRONG_TYPE: &str = "KW0103";
/// A required key is not there.
pub const MISSING_KEY: &str = "KW0104";
/// More messages, or more tables, than anybody means.
pub const TOO_MANY: &str = "KW0105";

/// There is nothing to listen on or nothing to connect to.
pub const NOTHING: &str = "KW0201";
/// Two tables of one name, or two listeners of one address.
pub const DUPLICATE: &str = "KW0202";
/// A name that nothing has.
pub const UNKNOWN_NAME: &str = "KW0203";
/// A name with characters that names cannot have.
pub const BAD_NAME: &str = "KW0204";
/// Not an address.
pub const ADDRESS: &str = "KW0205";
/// Not a Redis URL.
pub const URL: &str = "KW0206";
/// Not a duration.
pub const DURATION: &str = "KW0207";
/// A number or duration out of range, or two that contradict each other.
pub const RANGE: &str = "KW0208";
/// Not one of the possible words.
pub const CHOICE: &str = "KW0209";
/// Half a certificate, or TLS keys where no TLS is.
pub const TLS_INCOMPLETE: &str = "KW0210";
/// Client certificates are asked for, and nothing verifies them.
pub const CLIENT_CA: &str = "KW0211";
/// An upstream that is one of our own listeners.
pub const LOOP: &str = "KW0212";
/// A listener with login and without users.
pub const NOBODY: &str = "KW0213";
/// A user without password.
pub const NO_PASSWORD: &str = "KW0214";
/// Several sources for one secret.
pub const TWO_SOURCES: &str = "KW0215";
/// An empty text or list.
pub const EMPTY: &str = "KW0216";
/// An environment variable or flag that cannot be applied.
pub const NOT_APPLICABLE: &str = "KW0217";
/// An environment variable that looks like one of ours.
pub const UNKNOWN_VARIABLE: &str = "KW0218";
/// Not a password digest.
pub const PASSWORD_HASH: &str = "KW0219";
/// A setting without effect.
pub const NO_EFFECT: &str = "KW0220";

/// A file is missing or cannot be read.
pub const FILE: &str = "KW0301";
/// A secret file is empty, too large or has too many lines.
pub const SECRET_FILE: &str = "KW0302";
/// An environment variable that should hold a secret does not.
pub const SECRET_VARIABLE: &str = "KW0303";
/// More connections than file descriptors.
pub const DESCRIPTORS: &str = "KW0304";

/// A secret in the configuration itself.
pub const INLINE_SECRET: &str = "KW0401";
/// Plaintext beyond this host.
pub const PLAINTEXT: &str = "KW0402";
/// A listener without login that others can reach.
pub const NO_LOGIN: &str = "KW0403";
/// A file that others may read or write.
pub const FILE_MODE: &str = "KW0404";
/// A password that is short or well known.
pub const WEAK_PASSWORD: &str = "KW0405";
/// A secret in an environment variable.
pub const SECRET_IN_ENVIRONMENT: &str = "KW0406";
/// An upstream whose certificate is not verified.
pub const NOT_VERIFIED: &str = "KW0407";
/// The admin listener can be reached from other hosts.
pub const ADMIN_OPEN: &str = "KW0408";
/// The lockout of failed logins is off.
pub const LOCKOUT_OFF: &str = "KW0409";
/// Rules that are only observed.
pub const OBSERVE: &str = "KW0412";

/// A word of ACL rules that cannot be applied.
pub const ACL_RULE: &str = "KW0501";
/// An ACL file that cannot be read.
pub const ACL_FILE: &str = "KW0502";
/// A user who stands in a `[[user]]` table and in an ACL file.
pub const TWO_USERS: &str = "KW0504";

/// A certificate, key, CA or revocation list of a listener that cannot be used.
pub const LISTENER_TLS: &str = "KW0601";
/// A certificate, key, CA or password of an upstream that cannot be used.
pub const UPSTREAM_SETUP: &str = "KW0602";
/// A password of a user that cannot be read.
pub const USER_PASSWORD: &str = "KW0603";

/// A user of Redis that may do more than is allowed here.
pub const OVERPRIVILEGED: &str = "KW0410";

/// A change that a running process cannot follow.
pub const NEEDS_RESTART: &str = "KW0701";
/// A mistake of the program in its own settings.
pub const INTERNAL: &str = "KW0702";
