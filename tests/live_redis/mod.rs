//! A real redis-server for tests: on a unix socket in a directory of its own, ended on drop.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server and a connection to it.
pub(crate) struct LiveRedis {
    process: Child,
    connection: BufReader<UnixStream>,
    directory: tempfile::TempDir,
}

/// A RESP2 reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Text(String),
    Error(String),
    Integer(i64),
    Array(Vec<Self>),
    Null,
}

/// Which server it is, and its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Redis(u8, u8),
    Valkey(u8, u8),
}

impl LiveRedis {
    /// Starts the `redis-server` of the path (or `KEYWARD_REDIS_SERVER`) and connects.
    pub(crate) fn start() -> Self {
        let program = std::env::var("KEYWARD_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("s");
        std::fs::write(directory.path().join(ACL_FILE), "").expect("an empty file");
        let mut process = Command::new(&program)
            .args(["--port", "0", "--save", "", "--aclfile", ACL_FILE, "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program} cannot be started ({error}): run tests/run.sh, which installs what the tests need")
            });
        let deadline = Instant::now() + Duration::from_secs(20);
        let connection = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    let _ = process.kill();
                    let _ = process.wait();
                    panic!("{program} opened no socket within 20 s: {error}");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        connection
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a read timeout");
        Self {
            process,
            connection: BufReader::new(connection),
            directory,
        }
    }

    /// Sends one command and reads its reply.
    pub(crate) fn call(&mut self, words: &[&str]) -> Reply {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut replies = self.pipeline(&[words]);
        replies.remove(0)
    }

    /// Sends these commands at once and reads their replies. What they bring must fit into the sockets' buffers.
    pub(crate) fn pipeline(&mut self, requests: &[Vec<&[u8]>]) -> Vec<Reply> {
        let mut bytes = Vec::new();
        for words in requests {
            bytes.extend(encode(words));
        }
        self.connection
            .get_mut()
            .write_all(&bytes)
            .expect("the server reads");
        requests.iter().map(|_| self.reply()).collect()
    }

    /// What ACL SAVE has written.
    pub(crate) fn acl_file(&self) -> String {
        std::fs::read_to_string(self.directory.path().join(ACL_FILE)).expect("the file is there")
    }

    /// Name and version from INFO.
    pub(crate) fn server(&mut self) -> Server {
        let Reply::Text(info) = self.call(&["INFO", "server"]) else {
            panic!("INFO answers a text")
        };
        let version = |field: &str| {
            let value = info
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
            let mut numbers = value.split('.').map(|number| number.parse().unwrap_or(u8::MAX));
            Some((numbers.next()?, numbers.next()?))
        };
        match (version("valkey_version"), version("redis_version")) {
            (Some((major, minor)), _) => Server::Valkey(major, minor),
            (None, Some((major, minor))) => Server::Redis(major, minor),
            (None, None) => panic!("INFO names no version"),
        }
    }

    fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.connection.read_line(&mut line).expect("the server answers");
        let line = line.trim_end();
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()),
            "$" | "*" if number() < 0 => Reply::Null,
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()).expect("a length") + 2];
                self.connection.read_exact(&mut bytes).expect("the whole reply");
                bytes.truncate(bytes.len() - 2);
                Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => Reply::Array((0..number()).map(|_| self.reply()).collect()),
            _ => panic!("unexpected reply {line:?}"),
        }
    }
}

/// Where the server keeps its users.
const ACL_FILE: &str = "users.acl";

/// A request as it stands on the wire.
pub(crate) fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

impl Drop for LiveRedis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Error(text) => text,
            other => panic!("expected a text, got {other:?}"),
        }
    }

    pub(crate) fn integer(&self) -> i64 {
        match self {
            Self::Integer(integer) => *integer,
            other => panic!("expected an integer, got {other:?}"),
        }
    }

    pub(crate) fn array(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            other => panic!("expected an array, got {other:?}"),
        }
    }
}

/// One row of the server's COMMAND reply.
#[derive(Debug, Clone)]
pub(crate) struct LiveCommand {
    pub(crate) name: String,
    pub(crate) arity: i64,
    pub(crate) flags: Vec<String>,
    /// Without the `@`, sorted.
    pub(crate) categories: Vec<String>,
    pub(crate) has_keys: bool,
    pub(crate) container: bool,
}

/// Every command and subcommand of the server.
pub(crate) fn live_commands(redis: &mut LiveRedis) -> Vec<LiveCommand> {
    let mut found = Vec::new();
    let reply = redis.call(&["COMMAND"]);
    let mut open: Vec<&Reply> = reply.array().iter().collect();
    while let Some(row) = open.pop() {
        let fields = row.array();
        let texts = |at: usize| fields[at].array().iter().map(|item| item.text().to_owned());
        let mut categories: Vec<_> = texts(6)
            .map(|name| name.trim_start_matches('@').to_owned())
            .collect();
        categories.sort_unstable();
        found.push(LiveCommand {
            name: fields[0].text().to_owned(),
            arity: fields[1].integer(),
            flags: texts(2).collect(),
            categories,
            has_keys: fields[8].array().iter().any(names_keys),
            container: !fields[9].array().is_empty(),
        });
        open.extend(fields[9].array());
    }
    found
}

/// Whether a key specification is about keys at all: SPUBLISH has one marked `not_key`.
fn names_keys(specification: &Reply) -> bool {
    let fields = specification.array();
    let flags = fields
        .iter()
        .position(|field| *field == Reply::Text("flags".to_owned()))
        .expect("flags");
    !fields[flags + 1]
        .array()
        .iter()
        .any(|flag| flag.text() == "not_key")
}
