//! Who listens where. Facts in, findings out.

use std::net::{IpAddr, SocketAddr};

use super::finding::{Check, Finding};

/// An address that is to be listened on.
#[derive(Debug, Clone)]
pub(super) struct PortFacts {
    /// `listener "main"`, `admin`, `control socket`.
    pub(super) subject: String,
    /// As configured.
    pub(super) address: String,
    pub(super) state: PortState,
    /// The running process says that it has this listener.
    pub(super) announced: bool,
}

#[derive(Debug, Clone)]
pub(super) enum PortState {
    /// It was bound for a moment.
    Free,
    /// Somebody listens there: everybody who has the socket, as far as this user may see them. A service manager that opened
    /// it keeps it besides.
    Taken(Vec<Holder>),
    /// It cannot be listened on, with the reason.
    Unusable(String),
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) name: String,
    /// It is called as we are, or it is the same file.
    pub(super) is_keyward: bool,
}

/// The Keyward that runs with this configuration, as far as its admin listener tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Running {
    /// The admin listener is off: nobody can be asked.
    Unknown,
    /// Nobody answers there.
    No,
    /// It answers; its process, if this user may see it.
    Yes(Option<u32>),
}

/// One address.
pub(super) fn port(facts: &PortFacts, running: Running) -> Finding {
    let PortFacts { subject, address, .. } = facts;
    match &facts.state {
        PortState::Free => match running {
            Running::Yes(_) => Finding::warn(
                Check::Port,
                subject,
                format!(
                    "{address} is free although Keyward runs: it listens at the address it was started with"
                ),
                "restart it: addresses of listeners change with a restart only",
            ),
            _ => Finding::ok(Check::Port, subject, format!("{address} is free")),
        },
        PortState::Unusable(problem) => Finding::fail(
            Check::Port,
            subject,
            problem.clone(),
            "change the address, or what stands in its way",
        ),
        PortState::Taken(holders) => taken(facts, holders, running),
    }
}

fn taken(facts: &PortFacts, holders: &[Holder], running: Running) -> Finding {
    let PortFacts { subject, address, .. } = facts;
    let check = Check::Port;
    let ours = |process: String| {
        Finding::ok(
            check,
            subject,
            format!("{address}: Keyward listens there{process}"),
        )
    };
    // Whatever its program is called: its admin listener has answered.
    let asked = holders
        .iter()
        .find(|holder| running == Running::Yes(Some(holder.pid)));
    let named = || holders.iter().find(|holder| holder.is_keyward);
    if let Some(Holder { pid, .. }) = asked.or_else(named) {
        return match running {
            Running::Yes(Some(own)) if own != *pid => another(subject, address, *pid),
            Running::No => another(subject, address, *pid),
            _ => ours(format!(" (process {pid})")),
        };
    }
    let announced = matches!(running, Running::Yes(_)) && facts.announced;
    match holders {
        [] if announced => ours(String::new()),
        [] => Finding::fail(
            check,
            subject,
            format!("{address} is taken, by a process of another user"),
            format!(
                "`ss -ltnp 'sport = :{}'` as root shows by whom; stop it, or choose another address",
                address.rsplit(':').next().unwrap_or_default()
            ),
        ),
        // Of a unix socket the kernel tells who opened it, and nothing of whom it was given to.
        [Holder { pid, name, .. }] if name == SERVICE_MANAGER && announced => {
            ours(format!(", at a socket of {name} (process {pid})"))
        }
        [Holder { pid, name, .. }] if name == SERVICE_MANAGER => Finding::warn(
            check,
            subject,
            format!("{address} is held by {name} (process {pid}), and Keyward does not listen there"),
            "`systemctl list-sockets` shows for which service: keyward.socket starts Keyward with the first client; stop any other, \
             or choose another address",
        ),
        [Holder { pid, name, .. }, ..] => Finding::fail(
            check,
            subject,
            format!("{address} is taken by {name} (process {pid})"),
            format!("stop it, or choose another address for {subject}"),
        ),
    }
}

fn another(subject: &str, address: &str, pid: u32) -> Finding {
    Finding::fail(
        Check::Port,
        subject,
        format!("{address} is taken by another Keyward (process {pid}), not the one with this admin address"),
        "stop that one, or choose another address; is it an old instance?",
    )
}

/// Inodes of the TCP sockets that keep others from listening at this address, from the text of `/proc/net/tcp` or `tcp6`.
pub(super) fn listening(table: &str, wanted: SocketAddr) -> Vec<u64> {
    let rows = table.lines().skip(1).filter_map(|row| {
        let mut cells = row.split_whitespace();
        let local = cells.nth(1)?;
        let state = cells.nth(1)?;
        let inode = cells.nth(5)?;
        let (ip, port) = local.rsplit_once(':')?;
        let (ip, port) = (address(ip)?, u16::from_str_radix(port, 16).ok()?);
        let same = ip == wanted.ip() || ip.is_unspecified() || wanted.ip().is_unspecified();
        let listens = state == LISTEN && port == wanted.port() && same;
        listens.then(|| inode.parse().ok())?
    });
    rows.collect()
}

/// An address as the kernel writes it: words of 32 bits in its own byte order.
fn address(hexadecimal: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..hexadecimal.len()).step_by(8) {
        let word = u32::from_str_radix(hexadecimal.get(at..at.checked_add(8)?)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

/// Name of the program in `/proc/PID/comm`.
pub(super) const PROGRAM: &str = "keyward";
/// The same of who opens sockets for others.
const SERVICE_MANAGER: &str = "systemd";
/// `TCP_LISTEN` of the kernel.
const LISTEN: &str = "0A";

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn look(state: PortState, running: Running, announced: bool) -> Finding {
        let facts = PortFacts {
            subject: "listener \"main\"".to_owned(),
            address: "127.0.0.1:6380".to_owned(),
            state,
            announced,
        };
        port(&facts, running)
    }

    fn holder(pid: u32, name: &str) -> Holder {
        Holder {
            pid,
            name: name.to_owned(),
            is_keyward: name == PROGRAM,
        }
    }

    fn held(name: &str) -> PortState {
        PortState::Taken(vec![holder(7, name)])
    }

    #[test]
    fn a_port_is_free_ours_or_somebody_elses() {
        use PortState::{Free, Taken, Unusable};
        let activated = || Taken(vec![holder(1, SERVICE_MANAGER), holder(7, "keyward")]);
        for (state, running, announced, level) in [
            (Free, Running::No, false, Level::Ok),
            (Free, Running::Unknown, false, Level::Ok),
            (Free, Running::Yes(None), true, Level::Warn),
            (Free, Running::Yes(None), false, Level::Warn),
            (held("keyward"), Running::Yes(Some(7)), true, Level::Ok),
            (held("keyward"), Running::Yes(None), true, Level::Ok),
            (held("keyward"), Running::Unknown, false, Level::Ok),
            (held("keyward"), Running::Yes(Some(8)), true, Level::Fail),
            (held("keyward"), Running::No, false, Level::Fail),
            // Under another name it is known by what answered at its admin address.
            (held("frontdoor"), Running::Yes(Some(7)), true, Level::Ok),
            (held("frontdoor"), Running::Yes(Some(8)), true, Level::Fail),
            (held("frontdoor"), Running::No, false, Level::Fail),
            (held("redis-server"), Running::Yes(Some(8)), true, Level::Fail),
            (activated(), Running::Yes(Some(7)), true, Level::Ok),
            (activated(), Running::Unknown, false, Level::Ok),
            (activated(), Running::No, false, Level::Fail),
            (held(SERVICE_MANAGER), Running::Yes(Some(8)), true, Level::Ok),
            (held(SERVICE_MANAGER), Running::Yes(Some(8)), false, Level::Warn),
            (held(SERVICE_MANAGER), Running::No, false, Level::Warn),
            (Taken(Vec::new()), Running::Yes(None), true, Level::Ok),
            (Taken(Vec::new()), Running::Yes(None), false, Level::Fail),
            (Taken(Vec::new()), Running::No, false, Level::Fail),
            (Unusable("no".to_owned()), Running::No, false, Level::Fail),
        ] {
            let found = look(state.clone(), running, announced);
            assert_eq!(found.level, level, "{state:?} {running:?}: {found:?}");
        }
        let found = look(held("redis-server"), Running::No, false);
        assert!(found.message.contains("redis-server (process 7)"), "{found:?}");
        let found = look(activated(), Running::Yes(Some(7)), true);
        assert!(found.message.ends_with("(process 7)"), "{found:?}");
    }

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:18EC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 8101 1 0 100 0 0 10 0\n\
             1: 0100007F:18EC 0100007F:D0FA 01 00000000:00000000 00:00000000 00000000     0        0 8102 1 0 20 4 30 10 -1\n\
             2: 00000000:18ED 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 8103 1 0 100 0 0 10 0\n\
             nonsense\n";
        let at = |address: &str| listening(table, address.parse().unwrap());
        assert_eq!(at("127.0.0.1:6380"), [8101]);
        assert_eq!(at("0.0.0.0:6380"), [8101]);
        assert!(at("10.0.0.1:6380").is_empty());
        assert_eq!(at("10.0.0.1:6381"), [8103]);
        assert!(at("127.0.0.1:1").is_empty());
        assert_eq!(
            address("00000000000000000000000001000000").unwrap(),
            "::1".parse::<IpAddr>().unwrap()
        );
    }
}
