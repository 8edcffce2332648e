//! PROXY protocol, versions 1 and 2: who the client is when a load balancer stands before us.
//!
//! Whether a header is expected is the listener's configuration, never a guess from the bytes: from the listed
//! networks it is required, from all others it is refused. This reader takes exactly the header from the socket;
//! the bytes behind it belong to TLS or RESP. (In 2026 a proxy was found to let 65 KiB of TLVs spill into its
//! upstream stream; so their length is bounded and their bytes go nowhere.)

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::canonical;

/// What a PROXY header said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyInfo {
    /// The load balancer speaks for this client.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
    /// The load balancer speaks for itself (`LOCAL`: a health check) or does not know (`UNKNOWN`): the
    /// connection's own addresses count.
    Local,
}

/// Why a PROXY header was refused.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The first bytes are not a PROXY header.
    #[error("no PROXY protocol header where one is required")]
    Missing,
    /// It began like one but is not well-formed.
    #[error("malformed PROXY protocol header")]
    Malformed,
    /// Longer than 107 bytes (version 1) or 4 KiB (version 2).
    #[error("PROXY protocol header is too long")]
    TooLong,
    /// Reading failed, or the peer closed in the middle.
    #[error("connection lost while reading the PROXY protocol header")]
    Io(#[from] io::Error),
}

impl ProxyError {
    /// Word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Io(_) => "io",
        }
    }
}

/// Reads one PROXY header, version 1 or 2, and not one byte more.
///
/// Has no deadline of its own: the caller's deadline covers header, TLS and login together (L-21).
///
/// # Errors
/// [`ProxyError`]; what has been read is gone then, and the connection is to be closed.
pub async fn read_proxy_header(stream: &mut TcpStream) -> Result<ProxyInfo, ProxyError> {
    let mut first = [0u8; 1];
    stream.read_exact(&mut first).await?;
    match first {
        [b'P'] => read_v1(stream).await,
        [b'\r'] => read_v2(stream).await,
        _ => Err(ProxyError::Missing),
    }
}

/// Version 1 ends with CR LF, so the length is not known before: peek, take up to the LF, repeat.
async fn read_v1(stream: &mut TcpStream) -> Result<ProxyInfo, ProxyError> {
    let mut header = Vec::with_capacity(MAX_V1);
    header.push(b'P');
    let mut window = [0u8; MAX_V1];
    loop {
        let room = MAX_V1.saturating_sub(header.len());
        let Some(space) = window.get_mut(..room).filter(|space| !space.is_empty()) else {
            return Err(ProxyError::TooLong);
        };
        let seen = stream.peek(space).await?;
        if seen == 0 {
            return Err(ProxyError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let fresh = window.get(..seen).unwrap_or_default();
        let line_end = fresh.iter().position(|byte| *byte == b'\n');
        let take = line_end.map_or(seen, |at| at + 1);
        header.extend_from_slice(fresh.get(..take).unwrap_or_default());
        // Exactly the bytes just seen, so this does not wait and does not reach behind the header.
        let consumed = window.get_mut(..take).unwrap_or_default();
        stream.read_exact(consumed).await?;
        // Judged as it arrives: garbage shall not wait for a line end that never comes.
        let prefix = V1_START.len().min(header.len());
        if header.get(..prefix) != V1_START.get(..prefix) {
            return Err(ProxyError::Missing);
        }
        if line_end.is_some() {
            return parse(&header);
        }
    }
}

/// Version 2 announces its length after 14 bytes.
async fn read_v2(stream: &mut TcpStream) -> Result<ProxyInfo, ProxyError> {
    let mut head = [0u8; V2_HEAD];
    head[0] = b'\r';
    // The signature byte by byte would be slower; but a peer that sends less than 16 bytes is no load balancer,
    // and one that sends others is found out here.
    let (signature, rest) = head.split_at_mut(V2_SIGNATURE.len());
    stream
        .read_exact(signature.get_mut(1..).unwrap_or_default())
        .await?;
    if signature != V2_SIGNATURE {
        return Err(ProxyError::Missing);
    }
    stream.read_exact(rest).await?;
    let [command, _, high, low] = *rest else {
        return Err(ProxyError::Malformed);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2 {
        return Err(ProxyError::TooLong);
    }
    let mut header = Vec::with_capacity(V2_HEAD + length);
    header.extend_from_slice(&head);
    header.resize(V2_HEAD + length, 0);
    stream
        .read_exact(header.get_mut(V2_HEAD..).unwrap_or_default())
        .await?;
    if command == V2_LOCAL {
        // The specification: accept, and ignore whatever else the header holds.
        return Ok(ProxyInfo::Local);
    }
    parse(&header)
}

/// Decodes one whole header.
fn parse(header: &[u8]) -> Result<ProxyInfo, ProxyError> {
    // TLVs are neither needed nor looked at.
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let (parsed, length) = ProxyHeader::parse(header, config).map_err(|_| ProxyError::Malformed)?;
    if length != header.len() {
        return Err(ProxyError::Malformed);
    }
    let info = parsed
        .proxied_address()
        .map_or(ProxyInfo::Local, |address| ProxyInfo::Client {
            source: canonical(address.source),
            destination: canonical(address.destination),
        });
    Ok(info)
}

/// Longest version 1 header, CR LF included (section 2.1 of the specification).
pub(super) const MAX_V1: usize = 107;
/// Longest version 2 payload that we take: 36 bytes of IPv6 addresses (216 for unix) and TLVs. Load balancers send
/// some hundred bytes; a client certificate's subject in a TLV fits as well.
pub(super) const MAX_V2: usize = 4096;
/// Signature, command, family, length.
const V2_HEAD: usize = 16;
/// Every version 2 header begins with this.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\x00\r\nQUIT\n";
/// Version 2, command LOCAL.
const V2_LOCAL: u8 = 0x20;
/// Every version 1 header begins with this.
const V1_START: &[u8] = b"PROXY ";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        header.extend(payload);
        header
    }

    fn v2_tcp4(tlvs: usize) -> Vec<u8> {
        let mut payload = vec![192, 0, 2, 1, 198, 51, 100, 2, 0x9c, 0x40, 0x18, 0xec];
        payload.extend(vec![0; tlvs]);
        v2(0x21, 0x11, &payload)
    }

    fn v2_tcp6() -> Vec<u8> {
        let mut payload = vec![0u8; 36];
        payload[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        payload[15] = 1;
        payload[16..20].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        payload[31] = 2;
        payload[32..].copy_from_slice(&[0x9c, 0x40, 0x18, 0xec]);
        v2(0x21, 0x21, &payload)
    }

    fn client(source: &str, destination: &str) -> ProxyInfo {
        ProxyInfo::Client {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn good() -> Vec<(Vec<u8>, ProxyInfo)> {
        let four = client("192.0.2.1:40000", "198.51.100.2:6380");
        let six = client("[2001:db8::1]:40000", "[2001:db8::2]:6380");
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 6380\r\n".to_vec(), four),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 6380\r\n".to_vec(), six),
            (
                b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 40000 6380\r\n".to_vec(),
                four,
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), ProxyInfo::Local),
            (b"PROXY UNKNOWN ff::1 ff::2 1 2\r\n".to_vec(), ProxyInfo::Local),
            (v2_tcp4(0), four),
            (v2_tcp4(MAX_V2 - 12), four),
            (v2_tcp6(), six),
            (v2(0x20, 0x00, b""), ProxyInfo::Local),
            (v2(0x20, 0x11, b""), ProxyInfo::Local),
            (v2(0x20, 0x77, b"whatever"), ProxyInfo::Local),
            (v2(0x21, 0x00, b""), ProxyInfo::Local),
            (v2(0x21, 0x31, &[0; 216]), ProxyInfo::Local),
        ]
    }

    #[tokio::test]
    async fn a_header_is_read_and_the_bytes_behind_it_are_left() {
        for (header, expected) in good() {
            let (mut client, mut server) = pair().await;
            let mut sent = header.clone();
            sent.extend(b"*1\r\n$4\r\nPING\r\n");
            client.write_all(&sent).await.unwrap();
            let shown = header.escape_ascii().to_string();
            assert_eq!(read_proxy_header(&mut server).await.unwrap(), expected, "{shown}");
            let mut rest = [0u8; 14];
            server.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"*1\r\n$4\r\nPING\r\n", "{shown}");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_byte_by_byte() {
        for (header, expected) in good() {
            if header.len() > 300 {
                continue;
            }
            let (mut client, mut server) = pair().await;
            let shown = header.escape_ascii().to_string();
            let feed = async {
                for byte in &header {
                    client.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.write_all(b"+").await.unwrap();
            };
            let (read, ()) = tokio::join!(read_proxy_header(&mut server), feed);
            assert_eq!(read.unwrap(), expected, "{shown}");
            assert_eq!(server.read_u8().await.unwrap(), b'+', "{shown}");
        }
    }

    #[tokio::test]
    async fn what_is_not_a_header_is_refused_at_once() {
        let long_v1 = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (b"*1\r\n$4\r\nPING\r\n".to_vec(), "missing"),
            (b"\x16\x03\x01".to_vec(), "missing"),
            (b"PING\r\n".to_vec(), "missing"),
            (b"PROXX".to_vec(), "missing"),
            (
                b"PROXYTCP4 192.0.2.1 198.51.100.2 40000 6380\r\n".to_vec(),
                "missing",
            ),
            (b"\r\n\r\n\x00\r\nQUIX\n\n\n\n\n".to_vec(), "missing"),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 40000\r\n".to_vec(),
                "malformed",
            ),
            (
                b"PROXY TCP4 192.0.2.300 198.51.100.2 40000 6380\r\n".to_vec(),
                "malformed",
            ),
            (
                b"PROXY TCP4 2001:db8::1 2001:db8::2 40000 6380\r\n".to_vec(),
                "malformed",
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 65536\r\n".to_vec(),
                "malformed",
            ),
            (
                b"PROXY UDP4 192.0.2.1 198.51.100.2 40000 6380\r\n".to_vec(),
                "malformed",
            ),
            (b"PROXY\n".to_vec(), "missing"),
            (b"PROXY \n".to_vec(), "malformed"),
            (b"PROXY UNKNOWN\n".to_vec(), "malformed"),
            (long_v1, "too_long"),
            (v2(0x11, 0x11, &[0; 12]), "malformed"),
            (v2(0x22, 0x11, &[0; 12]), "malformed"),
            (v2(0x21, 0x41, &[0; 12]), "malformed"),
            (v2(0x21, 0x11, &[0; 11]), "malformed"),
            (v2(0x21, 0x21, &[0; 35]), "malformed"),
            (v2(0x21, 0x11, &vec![0; MAX_V2 + 1]), "too_long"),
            (v2(0x20, 0x11, &vec![0; MAX_V2 + 1]), "too_long"),
        ];
        for (bytes, expected) in cases {
            let (mut client, mut server) = pair().await;
            client.write_all(&bytes).await.unwrap();
            let shown = bytes[..bytes.len().min(60)].escape_ascii().to_string();
            // The client does not close: a verdict must not need the end of the stream.
            let read = tokio::time::timeout(Duration::from_secs(5), read_proxy_header(&mut server)).await;
            assert_eq!(read.expect(&shown).unwrap_err().label(), expected, "{shown}");
        }
    }

    #[tokio::test]
    async fn an_end_in_the_middle_is_an_error() {
        for (header, _) in good() {
            for cut in [0, 1, header.len() / 2, header.len() - 1] {
                let (mut client, mut server) = pair().await;
                client.write_all(&header[..cut]).await.unwrap();
                drop(client);
                assert_eq!(read_proxy_header(&mut server).await.unwrap_err().label(), "io");
            }
        }
    }
}
