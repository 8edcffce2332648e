//! The oracle: what Redis must answer to the commands that the sessions use, and what it must hold afterwards.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use bytes::Bytes;

use crate::support::client::Value;

/// A command with one reply that the model can foretell.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Set(String, Bytes),
    Get(String),
    Append(String, Bytes),
    Incr(String),
    Strlen(String),
    Del(String),
    Exists(String),
    Type(String),
    MGet(Vec<String>),
    MSet(Vec<(String, Bytes)>),
    HSet(String, usize, Bytes),
    HGet(String, usize),
    HGetAll(String),
    RPush(String, Vec<Bytes>),
    LPop(String),
    LLen(String),
    LRange(String),
    /// With the shortest of timeouts.
    BLPop(String),
    ZAdd(String, usize, i64),
    ZScore(String, usize),
    ZRange(String),
    XAdd(String, u64, Bytes),
    XLen(String),
    XRange(String),
    /// From the stream's beginning, with the shortest of timeouts.
    XRead(String),
    Echo(Bytes),
    Ping(Option<Bytes>),
    /// Not for use outside transactions, where the session has to know of it.
    Select(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    Text(Bytes),
    Hash(Vec<(usize, Bytes)>),
    List(Vec<Bytes>),
    Sorted(BTreeMap<usize, i64>),
    Stream(Vec<(u64, Bytes)>),
}

/// Everything that one session has written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    keys: BTreeMap<(u32, String), Data>,
}

/// Requests whose effects come together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    /// Each with the database it works on.
    pub(crate) ops: Vec<(u32, Op)>,
    /// All or nothing.
    pub(crate) atomic: bool,
}

impl Change {
    pub(crate) fn of(db: u32, op: Op) -> Self {
        Self {
            ops: vec![(db, op)],
            atomic: false,
        }
    }
}

impl Op {
    /// The request's words.
    pub(crate) fn words(&self) -> Vec<Bytes> {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let two = |name: &str, key: &str| vec![text(name), text(key)];
        match self {
            Self::Set(key, value) => vec![text("SET"), text(key), value.clone()],
            Self::Get(key) => two("GET", key),
            Self::Append(key, value) => vec![text("APPEND"), text(key), value.clone()],
            Self::Incr(key) => two("incr", key),
            Self::Strlen(key) => two("STRLEN", key),
            Self::Del(key) => two("DEL", key),
            Self::Exists(key) => two("EXISTS", key),
            Self::Type(key) => two("TYPE", key),
            Self::MGet(keys) => std::iter::once(text("MGET"))
                .chain(keys.iter().map(|key| text(key)))
                .collect(),
            Self::MSet(pairs) => std::iter::once(text("MSET"))
                .chain(pairs.iter().flat_map(|(key, value)| [text(key), value.clone()]))
                .collect(),
            Self::HSet(key, field, value) => vec![text("HSET"), text(key), field_name(*field), value.clone()],
            Self::HGet(key, field) => vec![text("hGet"), text(key), field_name(*field)],
            Self::HGetAll(key) => two("HGETALL", key),
            Self::RPush(key, values) => [text("RPUSH"), text(key)]
                .into_iter()
                .chain(values.iter().cloned())
                .collect(),
            Self::LPop(key) => two("LPOP", key),
            Self::LLen(key) => two("LLEN", key),
            Self::LRange(key) => vec![text("LRANGE"), text(key), text("0"), text("-1")],
            Self::BLPop(key) => vec![text("BLPOP"), text(key), text("0.01")],
            Self::ZAdd(key, member, score) => {
                vec![
                    text("ZADD"),
                    text(key),
                    text(&score.to_string()),
                    field_name(*member),
                ]
            }
            Self::ZScore(key, member) => vec![text("ZSCORE"), text(key), field_name(*member)],
            Self::ZRange(key) => vec![text("ZRANGE"), text(key), text("0"), text("-1")],
            Self::XAdd(key, id, value) => {
                vec![
                    text("XADD"),
                    text(key),
                    text(&format!("{id}-1")),
                    text("n"),
                    value.clone(),
                ]
            }
            Self::XLen(key) => two("XLEN", key),
            Self::XRange(key) => vec![text("XRANGE"), text(key), text("-"), text("+")],
            Self::XRead(key) => ["XREAD", "BLOCK", "10", "STREAMS", key, "0"]
                .into_iter()
                .map(text)
                .collect(),
            Self::Echo(nonce) => vec![text("ECHO"), nonce.clone()],
            Self::Ping(None) => vec![text("PING")],
            Self::Ping(Some(nonce)) => vec![text("PING"), nonce.clone()],
            Self::Select(db) => two("SELECT", &db.to_string()),
        }
    }

    /// Keys that it may change.
    pub(crate) fn written(&self) -> Vec<&str> {
        match self {
            Self::Set(key, _)
            | Self::Append(key, _)
            | Self::Incr(key)
            | Self::Del(key)
            | Self::HSet(key, ..)
            | Self::RPush(key, _)
            | Self::LPop(key)
            | Self::BLPop(key)
            | Self::ZAdd(key, ..)
            | Self::XAdd(key, ..) => vec![key],
            Self::MSet(pairs) => pairs.iter().map(|(key, _)| key.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn writes(&self) -> bool {
        !self.written().is_empty()
    }

    /// A client that leaves while it waits is forgotten at once.
    pub(crate) fn blocks(&self) -> bool {
        matches!(self, Self::BLPop(_) | Self::XRead(_))
    }
}

impl Store {
    /// Carries the command out: the reply of a connection on this database with this version.
    pub(crate) fn apply(&mut self, db: u32, op: &Op, resp3: bool) -> Value {
        let nil = || if resp3 { Value::Null } else { Value::NilBulk };
        let nil_array = || if resp3 { Value::Null } else { Value::NilArray };
        match op {
            Op::Set(key, value) => {
                self.keys.insert((db, key.clone()), Data::Text(value.clone()));
                ok()
            }
            Op::Get(key) => match self.data(db, key) {
                None => nil(),
                Some(Data::Text(text)) => bulk(text),
                Some(_) => wrong_type(),
            },
            Op::Append(key, more) => match self.data(db, key) {
                None => {
                    self.keys.insert((db, key.clone()), Data::Text(more.clone()));
                    integer(more.len())
                }
                Some(Data::Text(text)) => {
                    *text = [&text[..], &more[..]].concat().into();
                    integer(text.len())
                }
                Some(_) => wrong_type(),
            },
            Op::Incr(key) => match self.data(db, key) {
                None => {
                    self.keys.insert((db, key.clone()), Data::Text("1".into()));
                    integer(1)
                }
                Some(Data::Text(text)) => {
                    let number = std::str::from_utf8(text)
                        .ok()
                        .and_then(|text| text.parse::<i64>().ok());
                    match number {
                        Some(number) => {
                            *text = (number + 1).to_string().into();
                            Value::Integer(number + 1)
                        }
                        None => Value::Error("ERR value is not an integer or out of range".into()),
                    }
                }
                Some(_) => wrong_type(),
            },
            Op::Strlen(key) => match self.data(db, key) {
                None => integer(0),
                Some(Data::Text(text)) => integer(text.len()),
                Some(_) => wrong_type(),
            },
            Op::Del(key) => integer(usize::from(self.keys.remove(&(db, key.clone())).is_some())),
            Op::Exists(key) => integer(usize::from(self.data(db, key).is_some())),
            Op::Type(key) => Value::Simple(
                match self.data(db, key) {
                    None => "none",
                    Some(Data::Text(_)) => "string",
                    Some(Data::Hash(_)) => "hash",
                    Some(Data::List(_)) => "list",
                    Some(Data::Sorted(_)) => "zset",
                    Some(Data::Stream(_)) => "stream",
                }
                .into(),
            ),
            Op::MGet(keys) => Value::Array(
                keys.iter()
                    .map(|key| match self.data(db, key) {
                        Some(Data::Text(text)) => bulk(text),
                        _ => nil(),
                    })
                    .collect(),
            ),
            Op::MSet(pairs) => {
                for (key, value) in pairs {
                    self.keys.insert((db, key.clone()), Data::Text(value.clone()));
                }
                ok()
            }
            Op::HSet(..) | Op::HGet(..) | Op::HGetAll(_) => self.hash(db, op, resp3),
            Op::RPush(..) | Op::LPop(_) | Op::LLen(_) | Op::LRange(_) | Op::BLPop(_) => {
                self.list(db, op, resp3)
            }
            Op::ZAdd(..) | Op::ZScore(..) | Op::ZRange(_) => self.sorted(db, op, resp3),
            Op::XAdd(key, id, value) => {
                let empty = Data::Stream(Vec::new());
                match self.keys.entry((db, key.clone())).or_insert(empty) {
                    Data::Stream(entries) => {
                        entries.push((*id, value.clone()));
                        Value::Bulk(format!("{id}-1").into())
                    }
                    _ => wrong_type(),
                }
            }
            Op::XLen(key) => match self.data(db, key) {
                None => integer(0),
                Some(Data::Stream(entries)) => integer(entries.len()),
                Some(_) => wrong_type(),
            },
            Op::XRange(key) => match self.data(db, key) {
                None => Value::Array(Vec::new()),
                Some(Data::Stream(entries)) => stream_entries(entries),
                Some(_) => wrong_type(),
            },
            Op::XRead(key) => match self.data(db, key) {
                None => nil_array(),
                Some(Data::Stream(entries)) => {
                    let (key, entries) = (Value::Bulk(key.as_bytes().to_vec()), stream_entries(entries));
                    if resp3 {
                        Value::Map(vec![(key, entries)])
                    } else {
                        Value::Array(vec![Value::Array(vec![key, entries])])
                    }
                }
                Some(_) => wrong_type(),
            },
            Op::Echo(nonce) | Op::Ping(Some(nonce)) => bulk(nonce),
            Op::Ping(None) => Value::Simple("PONG".into()),
            Op::Select(_) => ok(),
        }
    }

    /// Carries out all of it; the replies are known already.
    pub(crate) fn replay(&mut self, change: &Change) {
        for (db, op) in &change.ops {
            self.apply(*db, op, false);
        }
    }

    /// What a look at each of these keys must show: see [`probes`].
    pub(crate) fn look(&mut self, touched: &BTreeSet<(u32, String)>) -> Vec<Value> {
        let mut seen = Vec::new();
        for (db, key) in touched {
            seen.push(ok());
            for op in probes(key) {
                seen.push(self.apply(*db, &op, false));
            }
        }
        seen
    }

    /// The keys of one database.
    pub(crate) fn names(&self, db: u32) -> BTreeSet<String> {
        self.keys
            .keys()
            .filter(|(of, _)| *of == db)
            .map(|(_, key)| key.clone())
            .collect()
    }

    fn data(&mut self, db: u32, key: &str) -> Option<&mut Data> {
        self.keys.get_mut(&(db, key.to_owned()))
    }

    fn hash(&mut self, db: u32, op: &Op, resp3: bool) -> Value {
        let nil = if resp3 { Value::Null } else { Value::NilBulk };
        match op {
            Op::HSet(key, field, value) => {
                let empty = Data::Hash(Vec::new());
                match self.keys.entry((db, key.clone())).or_insert(empty) {
                    Data::Hash(pairs) => match pairs.iter_mut().find(|(known, _)| known == field) {
                        Some((_, old)) => {
                            *old = value.clone();
                            integer(0)
                        }
                        None => {
                            pairs.push((*field, value.clone()));
                            integer(1)
                        }
                    },
                    _ => wrong_type(),
                }
            }
            Op::HGet(key, field) => match self.data(db, key) {
                None => nil,
                Some(Data::Hash(pairs)) => pairs
                    .iter()
                    .find(|(known, _)| known == field)
                    .map_or(nil, |(_, value)| bulk(value)),
                Some(_) => wrong_type(),
            },
            Op::HGetAll(key) => {
                let pairs: Vec<(Value, Value)> = match self.data(db, key) {
                    None => Vec::new(),
                    Some(Data::Hash(pairs)) => pairs
                        .iter()
                        .map(|(field, value)| (bulk(&field_name(*field)), bulk(value)))
                        .collect(),
                    Some(_) => return wrong_type(),
                };
                if resp3 {
                    Value::Map(pairs)
                } else {
                    Value::Array(
                        pairs
                            .into_iter()
                            .flat_map(|(field, value)| [field, value])
                            .collect(),
                    )
                }
            }
            _ => unreachable!(),
        }
    }

    fn list(&mut self, db: u32, op: &Op, resp3: bool) -> Value {
        let (Op::RPush(key, _) | Op::LPop(key) | Op::LLen(key) | Op::LRange(key) | Op::BLPop(key)) = op
        else {
            unreachable!()
        };
        let id = (db, key.clone());
        if matches!(op, Op::RPush(..)) {
            self.keys.entry(id.clone()).or_insert(Data::List(Vec::new()));
        }
        let Some(data) = self.keys.get_mut(&id) else {
            return match op {
                Op::LLen(_) => integer(0),
                Op::LRange(_) => Value::Array(Vec::new()),
                _ if resp3 => Value::Null,
                Op::LPop(_) => Value::NilBulk,
                _ => Value::NilArray,
            };
        };
        let Data::List(items) = data else {
            return wrong_type();
        };
        let reply = match op {
            Op::RPush(_, more) => {
                items.extend(more.iter().cloned());
                integer(items.len())
            }
            Op::LPop(_) => bulk(&items.remove(0)),
            Op::BLPop(_) => Value::Array(vec![Value::Bulk(key.as_bytes().to_vec()), bulk(&items.remove(0))]),
            Op::LLen(_) => integer(items.len()),
            _ => Value::Array(items.iter().map(bulk).collect()),
        };
        if items.is_empty() {
            self.keys.remove(&id);
        }
        reply
    }

    fn sorted(&mut self, db: u32, op: &Op, resp3: bool) -> Value {
        match op {
            Op::ZAdd(key, member, score) => {
                let empty = Data::Sorted(BTreeMap::new());
                match self.keys.entry((db, key.clone())).or_insert(empty) {
                    Data::Sorted(members) => integer(usize::from(members.insert(*member, *score).is_none())),
                    _ => wrong_type(),
                }
            }
            Op::ZScore(key, member) => match self.data(db, key) {
                Some(Data::Sorted(members)) if members.contains_key(member) => {
                    let score = members[member].to_string();
                    if resp3 {
                        Value::Double(score)
                    } else {
                        Value::Bulk(score.into())
                    }
                }
                None | Some(Data::Sorted(_)) if resp3 => Value::Null,
                None | Some(Data::Sorted(_)) => Value::NilBulk,
                Some(_) => wrong_type(),
            },
            Op::ZRange(key) => match self.data(db, key) {
                None => Value::Array(Vec::new()),
                Some(Data::Sorted(members)) => {
                    let mut order: Vec<(i64, Bytes)> = members
                        .iter()
                        .map(|(m, score)| (*score, field_name(*m)))
                        .collect();
                    order.sort();
                    Value::Array(order.iter().map(|(_, member)| bulk(member)).collect())
                }
                Some(_) => wrong_type(),
            },
            _ => unreachable!(),
        }
    }
}

/// Commands that show all of a key whatever its type is: those of other types answer errors.
pub(crate) fn probes(key: &str) -> [Op; 6] {
    [
        Op::Type(key.to_owned()),
        Op::Get(key.to_owned()),
        Op::HGetAll(key.to_owned()),
        Op::LRange(key.to_owned()),
        Op::ZRange(key.to_owned()),
        Op::XRange(key.to_owned()),
    ]
}

/// Short, so that Redis keeps a hash in the order of its making.
fn field_name(index: usize) -> Bytes {
    format!("f{index}").into()
}

fn stream_entries(entries: &[(u64, Bytes)]) -> Value {
    let entry = |(id, value): &(u64, Bytes)| {
        let fields = Value::Array(vec![Value::Bulk(b"n".to_vec()), bulk(value)]);
        Value::Array(vec![Value::Bulk(format!("{id}-1").into()), fields])
    };
    Value::Array(entries.iter().map(entry).collect())
}

pub(crate) fn ok() -> Value {
    Value::Simple("OK".into())
}

pub(crate) fn bulk(bytes: &Bytes) -> Value {
    Value::Bulk(bytes.to_vec())
}

fn integer(number: usize) -> Value {
    Value::Integer(number as i64)
}

fn wrong_type() -> Value {
    Value::Error("WRONGTYPE Operation against a key holding the wrong kind of value".into())
}
