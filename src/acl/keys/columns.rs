//! The column of the command table that says where keys and channels are.

use super::{
    ACCESS, Channels, DELETE, INSERT, KeyFlags, KeySpec, Keys, OW, Place, RM, RO, RW, UPDATE, counted, from,
    one, range,
};

macro_rules! columns {
    ($($name:ident = $($spec:expr),+;)*) => {
        $(pub(in crate::acl) const $name: Names = keys(Keys::At(&[$($spec),+]));)*
    };
}

/// What the column holds.
#[derive(Clone, Copy)]
pub(in crate::acl) struct Names {
    pub(in crate::acl) subs: bool,
    pub(in crate::acl) free: bool,
    pub(in crate::acl) keys: Keys,
    pub(in crate::acl) channels: Channels,
}

const fn keys(keys: Keys) -> Names {
    Names { keys, ..____ }
}

const fn channels(channels: Channels) -> Names {
    Names { channels, ..____ }
}

/// Nothing of all this.
pub(in crate::acl) const ____: Names = Names {
    subs: false,
    free: false,
    keys: Keys::None,
    channels: Channels::None,
};
/// Has subcommands.
pub(in crate::acl) const SUBS: Names = Names { subs: true, ..____ };
/// Permitted to everyone.
pub(in crate::acl) const FREE: Names = Names { free: true, ..____ };
/// One channel.
pub(in crate::acl) const CHANNEL: Names = channels(Channels::First);
/// Channels.
pub(in crate::acl) const CHANNELS: Names = channels(Channels::All);
/// Channels by patterns.
pub(in crate::acl) const PATTERNS: Names = channels(Channels::Patterns);

pub(in crate::acl) const SET_KEY: Names = keys(Keys::Set);
pub(in crate::acl) const BITFIELD: Names = keys(Keys::Bitfield);
pub(in crate::acl) const SORT: Names = keys(Keys::Sort { store: true });
pub(in crate::acl) const SORT_RO: Names = keys(Keys::Sort { store: false });
pub(in crate::acl) const MIGRATE: Names = keys(Keys::Migrate);
pub(in crate::acl) const GEORADIUS: Names = keys(Keys::Georadius { options: 6 });
pub(in crate::acl) const GEO_MEMBER: Names = keys(Keys::Georadius { options: 5 });
pub(in crate::acl) const XREAD: Names = keys(Keys::Streams { group: false });
pub(in crate::acl) const XREADGROUP: Names = keys(Keys::Streams { group: true });
/// Keys that the arguments do not name.
pub(in crate::acl) const UNNAMED: Names = keys(Keys::Unnamed);
/// Keys at places that nobody here has read about.
pub(in crate::acl) const UNKNOWN: Names = keys(Keys::Unknown);

// `K2` is the key at position 2, `K2N` are all from there to the last argument, `K1M` all but the last, `K1P` every second and
// `K1T` every third, `K1TO2` two; `C2` is a count at position 2 and the keys behind it, `C1P` every second. Behind each stand
// Redis's flags: RO, RW, OW, RM, and of access, insert, update and delete the first letter.
#[rustfmt::skip]
columns! {
    C1P_OWU = KeySpec { place: Place::Counted { count: 1, first: 2, step: 2 }, flags: KeyFlags(OW | UPDATE) };
    C1_ROA = counted(1, RO | ACCESS);
    C1_RWAD = counted(1, RW | ACCESS | DELETE);
    C2_ROA = counted(2, RO | ACCESS);
    C2_RWAD = counted(2, RW | ACCESS | DELETE);
    C2_RWAU = counted(2, RW | ACCESS | UPDATE);
    K1M_RWAD = range(1, -2, 1, RW | ACCESS | DELETE);
    K1M_RWAU = range(1, -2, 1, RW | ACCESS | UPDATE);
    K1N_RMD = from(1, RM | DELETE);
    K1N_RO = from(1, RO);
    K1N_ROA = from(1, RO | ACCESS);
    K1N_RWA = from(1, RW | ACCESS);
    K1P_OWI = range(1, -1, 2, OW | INSERT);
    K1P_OWU = range(1, -1, 2, OW | UPDATE);
    K1TO2_ROA = range(1, 2, 1, RO | ACCESS);
    K1TO2_RWAU = range(1, 2, 1, RW | ACCESS | UPDATE);
    K1T_RWAU = range(1, -1, 3, RW | ACCESS | UPDATE);
    K1_OWI = one(1, OW | INSERT);
    K1_OWU = one(1, OW | UPDATE);
    K1_OWU_C2_ROA = one(1, OW | UPDATE), counted(2, RO | ACCESS);
    K1_OWU_K2N_ROA = one(1, OW | UPDATE), from(2, RO | ACCESS);
    K1_OWU_K2_ROA = one(1, OW | UPDATE), one(2, RO | ACCESS);
    K1_RO = one(1, RO);
    K1_ROA = one(1, RO | ACCESS);
    K1_ROA_K2_OWU = one(1, RO | ACCESS), one(2, OW | UPDATE);
    K1_RWAD = one(1, RW | ACCESS | DELETE);
    K1_RWAD_K2_OWI = one(1, RW | ACCESS | DELETE), one(2, OW | INSERT);
    K1_RWAD_K2_OWU = one(1, RW | ACCESS | DELETE), one(2, OW | UPDATE);
    K1_RWAD_K2_RWI = one(1, RW | ACCESS | DELETE), one(2, RW | INSERT);
    K1_RWAI_K2N_ROA = one(1, RW | ACCESS | INSERT), from(2, RO | ACCESS);
    K1_RWAU = one(1, RW | ACCESS | UPDATE);
    K1_RWAU_C2_RWAU = one(1, RW | ACCESS | UPDATE), counted(2, RW | ACCESS | UPDATE);
    K1_RWD = one(1, RW | DELETE);
    K1_RWI = one(1, RW | INSERT);
    K1_RWU = one(1, RW | UPDATE);
    K1_RWUD = one(1, RW | UPDATE | DELETE);
    K1_RWU_K2N_ROA = one(1, RW | UPDATE), from(2, RO | ACCESS);
    K2_OWU_K3N_ROA = one(2, OW | UPDATE), from(3, RO | ACCESS);
    K2_RO = one(2, RO);
    K2_ROA = one(2, RO | ACCESS);
    K2_RWA = one(2, RW | ACCESS);
    K2_RWAU = one(2, RW | ACCESS | UPDATE);
    K2_RWD = one(2, RW | DELETE);
    K2_RWI = one(2, RW | INSERT);
    K2_RWU = one(2, RW | UPDATE);
}
