//! The admin listener: `/metrics`, `/livez`, `/readyz` (also as `/healthz`), `/acl/learned` if somebody set `learn = true`, for
//! people on this machine the status page at `/` and `/status` with its twin `/status.json`, and nothing else.
//!
//! It never shares a port with clients, reads nothing but a request line and headers, changes nothing, and cannot
//! reach an upstream (rule T-11). It runs on a thread of its own, so that a hanging or flooding scraper costs the
//! sessions nothing (rule F-39) and the answers still come when all workers are busy. Everything is bounded: at most
//! [`MAX_CONNECTIONS`] connections, 8 KiB of head, 2 s for a head to arrive (which also ends idle connections), and
//! one minute for a connection in all, whatever it does.

mod readiness;
mod status_page;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::metrics::{AcceptErrorKind, Metrics};

pub use readiness::{Health, Readiness, UpstreamHealth};
pub use status_page::StatusSource;

/// What the pages are made from.
#[derive(Debug, Clone)]
pub struct Pages {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`.
    pub readiness: Arc<Readiness>,
    /// For `/acl/learned`; `None`: there is no such page.
    pub learned: Option<Arc<dyn LearnedRules>>,
    /// For `/status` and `/status.json`; `None`: there are no such pages.
    pub status: Option<Arc<dyn StatusSource>>,
}

/// Who can say what was learned of users: rules without passwords, with beginnings of the names of keys in them.
pub trait LearnedRules: fmt::Debug + Send + Sync {
    /// Lines of an ACL file, and lines that begin with `#`; `None`: nobody set `learn = true`.
    fn text(&self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + '_>>;
}

/// The running admin server; stops when dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    /// Dropping it is the signal to stop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Admin {
    /// Serves on a bound listener from a thread of its own.
    ///
    /// # Errors
    /// The listener has no address or cannot be made non-blocking, or no thread or runtime could be made.
    pub fn start(listener: TcpListener, pages: Pages) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("keyward-admin".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        result = serve(listener, pages) => {
                            if let Err(error) = result {
                                tracing::error!(event = "admin_failed", %error);
                            }
                        }
                        _ = stopped => {}
                    }
                });
                // Whatever still answers is dropped with the runtime.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens, with the port that the system chose if none was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Serves on a non-blocking listener, in the runtime it is called from; never returns but for a failure to begin.
///
/// # Errors
/// The listener could not be registered with the runtime.
pub async fn serve(listener: TcpListener, pages: Pages) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    if let Some(status) = &pages.status {
        tokio::spawn(status_page::sample(Arc::clone(status)));
    }
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let pages = pages.clone();
                    tokio::spawn(async move {
                        connection(stream, pages).await;
                        drop(slot);
                    });
                }
                Err(_) => {
                    // Fits the empty send buffer of a new connection; if it does not, the close says it too.
                    let _ = stream.try_write(BUSY);
                }
            },
            Err(error) if AcceptErrorKind::from(&error).is_transient() => {}
            Err(_) => sleep(ACCEPT_BACK_OFF).await,
        }
    }
}

async fn connection(stream: TcpStream, pages: Pages) {
    let peer = stream.peer_addr().ok().map(|peer| peer.ip());
    let service = service_fn(move |request| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.respond(&request, peer).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // Errors are the client's: a broken head, a timeout, a reset. There is nobody to tell.
    if timeout(CONNECTION_TIME, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER_TIME, connection).await;
    }
}

impl Pages {
    /// The path alone decides; a body is ignored, and so is a query but for `refresh=off` of the status page.
    async fn respond(&self, request: &Request<Incoming>, peer: Option<IpAddr>) -> Response<Full<Bytes>> {
        let page = match request.uri().path() {
            "/metrics" => Page::Metrics,
            "/livez" => Page::Live,
            "/readyz" | "/healthz" => Page::Ready,
            "/acl/learned" => Page::Learned,
            "/" | "/status" if self.status.is_some() => Page::Status { json: false },
            "/status.json" if self.status.is_some() => Page::Status { json: true },
            _ => return not_found(),
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match page {
            Page::Metrics => response(StatusCode::OK, METRICS, self.metrics.render()),
            Page::Live => response(StatusCode::OK, JSON, r#"{"status":"ok"}"#),
            Page::Learned => match &self.learned {
                Some(learned) => {
                    (learned.text().await).map_or_else(not_found, |text| response(StatusCode::OK, TEXT, text))
                }
                None => not_found(),
            },
            Page::Status { json } => (self.status.as_deref()).map_or_else(not_found, |source| {
                status_page::answer(source, request, peer, json)
            }),
            Page::Ready => {
                let health = self.readiness.health();
                let status = if health.ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                response(status, JSON, health.body())
            }
        }
    }
}

enum Page {
    Metrics,
    Live,
    Ready,
    Learned,
    Status { json: bool },
}

fn not_found() -> Response<Full<Bytes>> {
    response(StatusCode::NOT_FOUND, TEXT, "not found\n")
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Connections served at once; a scraper needs one, a probe another.
pub const MAX_CONNECTIONS: usize = 64;
/// For a whole head to arrive, counted from the connect or from the answer before; so also the longest idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// The least that hyper takes; a head that is longer is refused with 431.
const HEAD_BYTES: usize = 8192;
const HEADERS: usize = 64;
/// Longer than any scrape interval's answer takes; ends scrapers that do not read.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
const LAST_ANSWER_TIME: Duration = Duration::from_secs(2);
/// Out of descriptors: the sessions need them more than we do.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(250);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const SECURITY_HEADERS: [(header::HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
];
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
