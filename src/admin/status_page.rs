//! `/` and `/status` (the page) and `/status.json`: for people on this machine.
//!
//! They name addresses, files and who is locked out, which metrics do not. So they are shown only to who connects from
//! loopback (a person on the host, `ssh -L`, `kubectl port-forward`, `docker exec`) and asks for a loopback name: a web page
//! from elsewhere that has its own name point here (DNS rebinding) is told nothing.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Request, Response, StatusCode};

use crate::status::{Status, html};

use super::{JSON, TEXT, response};

/// Who knows how things are.
pub trait StatusSource: Debug + Send + Sync {
    /// How things are now, or were a moment ago. `fresh`: it has to be now, for the last hour's sake.
    fn status(&self, fresh: bool) -> Arc<Status>;

    /// How often it wants to be asked for the last hour's sake.
    fn interval(&self) -> Duration;
}

/// Asks again and again, so that there is a last hour when somebody looks.
pub(super) async fn sample(source: Arc<dyn StatusSource>) {
    let mut interval = tokio::time::interval(source.interval());
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        source.status(true);
    }
}

/// The answer to one request; `json` rather than the page.
pub(super) fn answer<B>(
    source: &dyn StatusSource,
    request: &Request<B>,
    peer: Option<IpAddr>,
    json: bool,
) -> Response<Full<Bytes>> {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if !may_see(peer, host) {
        return response(StatusCode::FORBIDDEN, TEXT, ELSEWHERE);
    }
    let status = source.status(false);
    if json {
        // Maps without text keys alone could fail, and there are none.
        return response(
            StatusCode::OK,
            JSON,
            serde_json::to_vec(&*status).unwrap_or_default(),
        );
    }
    let refreshing = request.uri().query() != Some("refresh=off");
    let mut page = response(StatusCode::OK, HTML, html::page(&status, refreshing));
    let headers = page.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy()) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if refreshing {
        headers.insert(header::REFRESH, HeaderValue::from_static(REFRESH_SECONDS));
    }
    page
}

/// Whether somebody from there, who called this machine so, may see it.
fn may_see(peer: Option<IpAddr>, host: Option<&str>) -> bool {
    let local = |ip: IpAddr| ip.to_canonical().is_loopback();
    let named = host
        .and_then(|host| host.parse::<Authority>().ok())
        .is_some_and(|authority| {
            let name = authority.host().trim_start_matches('[').trim_end_matches(']');
            name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(local)
        });
    peer.is_some_and(local) && named
}

/// Nothing but our own style sheet, and the tab's icon, which is in the page.
fn policy() -> String {
    let hash = base64(digest(&SHA256, html::STYLE.as_bytes()).as_ref());
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let padded = [0, 1, 2].map(|at| group.get(at).copied().unwrap_or(0));
        let bits = padded
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            let found = usize::try_from(value).ok().and_then(|value| DIGITS.get(value));
            text.push(if digit > group.len() {
                '='
            } else {
                found.map_or('=', |digit| char::from(*digit))
            });
        }
    }
    text
}

const HTML: &str = "text/html; charset=utf-8";
/// The page says the same in words.
const REFRESH_SECONDS: &str = "10";
const ELSEWHERE: &str = "The status page is for this machine alone: ask for http://localhost here, or through ssh -L, \
kubectl port-forward or docker exec ... keyward status.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_by_a_loopback_name_may_see_it() {
        let see = |peer: &str, host: &str| may_see(Some(peer.parse().unwrap()), Some(host));
        for (peer, host) in [
            ("127.0.0.1", "127.0.0.1:6390"),
            ("127.0.0.1", "localhost"),
            ("127.0.0.1", "LOCALHOST:6390"),
            ("::1", "[::1]:6390"),
            ("::ffff:127.0.0.1", "localhost:1"),
        ] {
            assert!(see(peer, host), "{peer} {host}");
        }
        for (peer, host) in [
            ("10.0.0.1", "localhost"),
            ("::ffff:10.0.0.1", "localhost"),
            ("127.0.0.1", "evil.example"),
            ("127.0.0.1", "localhost.evil.example:6390"),
            ("127.0.0.1", "localhost@evil.example"),
            ("127.0.0.1", "10.0.0.1"),
            ("127.0.0.1", ""),
        ] {
            assert!(!see(peer, host), "{peer} {host}");
        }
        assert!(!may_see(None, Some("localhost")));
        assert!(!may_see("127.0.0.1".parse().ok(), None));
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
