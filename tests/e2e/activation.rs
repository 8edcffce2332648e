//! Sockets that the service manager has opened (`LISTEN_FDS`): the test is the service manager.

use std::fs;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use super::support::APP_PASSWORD;
use super::support::Client;
use super::support::Redis;
use super::support::Setup;
use super::support::keyward::set_mode;
use super::support::request;
use super::support::words;

/// As systemd sets them for one socket.
const ONE: &str = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=main";

/// A login and a question, sent at once.
fn ask(client: &mut Client) {
    let mut bytes = request(&[b"AUTH", b"app", APP_PASSWORD.as_bytes()]);
    bytes.extend(words("PING"));
    client.send(&bytes);
}

/// With the queue of the unit: that of the standard library is short enough to fill up here.
fn listening(address: &str) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

/// The standard setup, told to listen where this socket does.
fn at(redis: &Redis, address: SocketAddr) -> Setup {
    Setup::new(redis).listener(&format!("address = \"{address}\""))
}

#[test]
fn a_restart_refuses_nobody_and_serves_everybody_who_came_meanwhile() {
    let redis = Redis::start();
    let socket = listening("127.0.0.1:0");
    let address = socket.local_addr().unwrap();
    let mut setup = at(&redis, address).inherit(socket.try_clone().unwrap(), ONE);
    let over = AtomicBool::new(false);
    let attempts = thread::scope(|scope| {
        // From before the first start until after the last: nobody is ever refused.
        let knocking = scope.spawn(|| {
            let mut attempts = 0_u32;
            while !over.load(Ordering::Relaxed) {
                drop(Client::tcp(address));
                attempts += 1;
                thread::park_timeout(Duration::from_millis(10));
            }
            attempts
        });
        for _ in 0..3 {
            let mut waiting: Vec<Client> = (0..20).map(|_| Client::tcp(address)).collect();
            waiting.iter_mut().for_each(ask);
            let mut keyward = setup.start();
            assert_eq!(keyward.address(), address);
            for client in &mut waiting {
                assert_eq!(client.replies(2), ["+OK", "+PONG"]);
            }
            let mut late = keyward.app();
            assert_eq!(late.call("PING"), "+PONG");
            keyward.stop();
            late.expect_closed();
            setup = keyward.into_setup();
        }
        drop(setup);
        over.store(true, Ordering::Relaxed);
        knocking.join().unwrap()
    });
    assert!(attempts > 10, "{attempts}");
    // The socket is the service manager's: it still listens, and the options that Keyward set have done it no harm.
    let _client = Client::tcp(address);
    socket.accept().unwrap();
}

#[test]
fn a_unix_socket_is_taken_with_its_mode_and_left_where_it_is() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kw.sock");
    let socket = UnixListener::bind(&path).unwrap();
    set_mode(&path, 0o660);
    let setup = |mode: &str| {
        Setup::new(&redis)
            .listener(&format!("address = \"unix:{}\"", path.display()))
            .listener(&format!("socket_mode = \"{mode}\""))
            .inherit(socket.try_clone().unwrap(), ONE)
    };
    let mut keyward = setup("0660").start();
    let mut client = Client::unix(&path).login("app", APP_PASSWORD);
    assert_eq!(client.call("PING"), "+PONG");
    keyward.stop();
    assert!(path.exists(), "the service manager still listens there");
    let (code, said) = setup("0600").refuse();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("SocketMode=0600"), "{said}");
}

#[test]
fn a_socket_that_is_not_what_the_configuration_says_is_refused_with_the_remedy() {
    let redis = Redis::start();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = everywhere.local_addr().unwrap().port();
    let refused = |setup: Setup, expected: &[&str]| {
        let (code, said) = setup.refuse();
        assert_eq!(code, 1, "{said}");
        for words in expected {
            assert!(said.contains(words), "{words} is not in: {said}");
        }
    };
    // What was checked is the loopback address; this one is open to all.
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    refused(
        at(&redis, local).inherit(everywhere, ONE),
        &[&local.to_string(), &format!("0.0.0.0:{port}"), "ListenStream="],
    );
    let other = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=keyward.socket";
    refused(
        at(&redis, SocketAddr::from(([127, 0, 0, 1], 0))).inherit(listening.try_clone().unwrap(), other),
        &["keyward.socket", "FileDescriptorName=", "main"],
    );
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    refused(
        at(&redis, datagrams.local_addr().unwrap()).inherit(datagrams, ONE),
        &["does not listen"],
    );
    // One that is said to be there and is not.
    let two = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=main:more";
    refused(at(&redis, address).inherit(listening, two), &["LISTEN_FDS"]);
}

#[test]
fn variables_for_another_process_mean_nothing() {
    let redis = Redis::start();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let others = "LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=main";
    let keyward = Setup::new(&redis)
        .inherit(socket.try_clone().unwrap(), others)
        .start();
    assert_ne!(keyward.address(), socket.local_addr().unwrap());
    assert_eq!(keyward.app().call("PING"), "+PONG");
}

#[test]
fn the_socket_unit_that_is_shipped_fits_the_configuration_that_is_shipped() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let unit = fs::read_to_string(root.join("systemd/keyward.socket")).unwrap();
    let value = |key: &str| {
        let mut lines = unit.lines().filter_map(|line| line.strip_prefix(key));
        lines.next().unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let configuration = fs::read_to_string(root.join("debian/keyward.toml")).unwrap();
    let listener = configuration.split("[[listener]]").nth(1).unwrap();
    for (key, unit) in [("name", "FileDescriptorName="), ("address", "ListenStream=")] {
        let wanted = format!("= \"{}\"", value(unit));
        let line = listener.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line.contains(&wanted), "{line} is not {wanted}");
    }
}
