//! A small HTTP/1.1 server: GET and HEAD, one request per connection, bounded in every direction.
//!
//! It answers questions about the agent and changes nothing. Whoever connects can hold up nobody else: a connection has a
//! thread of its own and ends after [`PATIENCE`]; beyond [`CONNECTIONS`] at a time the rest is told to come again; a request
//! longer than [`REQUEST_BYTES`] is refused.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections at one time.
pub const CONNECTIONS: usize = 32;
/// Bytes of a request, its headers included.
pub const REQUEST_BYTES: usize = 8192;
/// Time for a connection, from the first byte to the last.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A response with text.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response {
            status,
            content_type,
            body: body.into(),
        }
    }

    fn error(status: u16) -> Response {
        let text = format!("{status} {}\n", reason(status));
        Response::new(status, "text/plain; charset=utf-8", text)
    }
}

/// Answers for a path, percent-decoded, without its query.
pub type Handler = dyn Fn(&str) -> Response + Send + Sync;

/// A server at work; dropping it frees the address.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `address`, and answers from now on.
    ///
    /// # Errors
    ///
    /// What the kernel said to listening, such as that the port is in use.
    pub fn start(address: SocketAddr, handler: Arc<Handler>) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        let thread = std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || accept(&listener, &handler, &stopped))?;
        Ok(Server {
            address,
            is_stopped,
            thread: Some(thread),
        })
    }

    /// Where it listens; with port 0 asked for, the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Relaxed: the connection below orders it.
        self.is_stopped.store(true, Ordering::Relaxed);
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        // `accept` returns for somebody who connects, and sees the flag.
        let woken = TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            // It does nothing but to end.
            let _ = thread.join();
        }
    }
}

/// One more connection is served as long as this lives.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        // Relaxed: a count.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, handler: &Arc<Handler>, is_stopped: &AtomicBool) {
    let taken = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept();
        // Relaxed: see `drop` of the server.
        if is_stopped.load(Ordering::Relaxed) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                // No file descriptors left, perhaps: not a reason to spin.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        // Relaxed: a count.
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&taken));
        if before >= CONNECTIONS {
            turn_away(&stream);
            continue;
        }
        let handler = Arc::clone(handler);
        let spawned = std::thread::Builder::new()
            .name("http client".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                let _seat = seat;
                if let Err(error) = serve(&stream, &*handler) {
                    tracing::debug!(%error, "a client was not answered");
                }
            });
        if let Err(error) = spawned {
            tracing::debug!(%error, "no thread for a client");
        }
    }
}

/// Says that there is no seat, without waiting for anything: a short write fits the empty buffer of the socket. What the
/// client sent already is taken out, or closing would take our answer back.
fn turn_away(stream: &TcpStream) {
    let sent = stream
        .set_nonblocking(true)
        .and_then(|()| send(stream, &Response::error(503), false, Instant::now()));
    let read = (&mut &*stream).read(&mut [0u8; REQUEST_BYTES]);
    tracing::debug!(?sent, ?read, "a client was turned away");
}

fn serve(stream: &TcpStream, handler: &Handler) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let (response, is_head) = match receive(stream, deadline)? {
        Received::Request(head) => answer(&head, handler),
        Received::TooLong => (Response::error(431), false),
        Received::TooSlow => (Response::error(408), false),
        Received::Nothing => return Ok(()),
    };
    send(stream, &response, is_head, deadline)?;
    // What the client still sends would else turn our last bytes into a reset; it is read and forgotten, not for long.
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut rest = [0u8; 1024];
    let mut left = 64;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    while left > 0 && matches!((&mut &*stream).read(&mut rest), Ok(1..)) {
        left -= 1;
    }
    Ok(())
}

/// What came from a client.
enum Received {
    Request(Vec<u8>),
    TooLong,
    TooSlow,
    Nothing,
}

/// Reads up to the blank line behind the headers. A body is not read: no request that is answered has one.
fn receive(mut stream: &TcpStream, deadline: Instant) -> io::Result<Received> {
    let mut request = Vec::new();
    let mut buffer = [0u8; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Received::TooSlow);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) if request.is_empty() => return Ok(Received::Nothing),
            Ok(0) => return Ok(Received::Request(request)),
            Ok(n) => {
                // The end may lie across two reads.
                let from = request.len().saturating_sub(3);
                request.extend_from_slice(&buffer[..n]);
                if request[from..].windows(4).any(|w| w == b"\r\n\r\n")
                    || request[from..].windows(2).any(|w| w == b"\n\n")
                {
                    return Ok(Received::Request(request));
                }
                if request.len() > REQUEST_BYTES {
                    return Ok(Received::TooLong);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(Received::TooSlow);
            }
            Err(e) => return Err(e),
        }
    }
}

/// The response, and whether only its head is wanted.
fn answer(request: &[u8], handler: &Handler) -> (Response, bool) {
    let line = request.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let Ok(line) = std::str::from_utf8(line) else {
        return (Response::error(400), false);
    };
    let mut words = line.trim_end().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return (Response::error(400), false);
    };
    if !version.starts_with("HTTP/1.") {
        return (Response::error(505), false);
    }
    let is_head = method == "HEAD";
    if !is_head && method != "GET" {
        return (Response::error(405), false);
    }
    let path = target.split(['?', '#']).next().unwrap_or("");
    if target.len() > 2048 {
        return (Response::error(414), is_head);
    }
    match decoded(path) {
        Some(path) if path.starts_with('/') => (handler(&path), is_head),
        _ => (Response::error(400), is_head),
    }
}

/// `%2F` and the like as what they stand for.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn send(
    mut stream: &TcpStream,
    response: &Response,
    is_head: bool,
    deadline: Instant,
) -> io::Result<()> {
    let mut bytes = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n{}\r\n",
        response.status,
        reason(response.status),
        response.content_type,
        response.body.len(),
        match response.status {
            405 => "Allow: GET, HEAD\r\n",
            503 => "Retry-After: 1\r\n",
            _ => "",
        },
    )
    .into_bytes();
    if !is_head {
        bytes.extend_from_slice(&response.body);
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        // An error response after all patience is gone still gets a moment.
        stream.set_write_timeout(Some(left.max(Duration::from_millis(100))))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) if !left.is_zero() || n == rest.len() => rest = &rest[n..],
            Ok(_) => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        let handler = |path: &str| Response::new(200, "text/plain", path.to_owned());
        Server::start("127.0.0.1:0".parse().unwrap(), Arc::new(handler)).unwrap()
    }

    fn ask(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn requests_are_answered_or_refused() {
        let server = server();
        let said = ask(&server, "GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
        assert!(said.ends_with("\r\n\r\n/a b"), "{said}");
        let said = ask(&server, "HEAD /abc HTTP/1.0\r\n\r\n");
        assert!(said.contains("Content-Length: 4\r\n") && said.ends_with("\r\n\r\n"));
        for (request, status) in [
            ("POST / HTTP/1.1\r\n\r\n", 405),
            ("DELETE / HTTP/1.1\r\n\r\n", 405),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("GET /%zz HTTP/1.1\r\n\r\n", 400),
            ("GET x HTTP/1.1\r\n\r\n", 400),
            ("\r\n\r\n", 400),
        ] {
            let said = ask(&server, request);
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(4000));
        assert!(ask(&server, &long).starts_with("HTTP/1.1 414 "));
        let longer = format!("GET /{}", "a".repeat(2 * REQUEST_BYTES));
        assert!(ask(&server, &longer).starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn silent_clients_take_seats_but_not_for_ever() {
        let server = server();
        let silent: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|_| TcpStream::connect(server.address()).unwrap())
            .collect();
        // Who is turned away may find the connection reset before all is read.
        let ask = || {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        };
        let refused = loop {
            let said = ask();
            if said.starts_with("HTTP/1.1 503 ") {
                break said;
            }
        };
        assert!(refused.contains("Retry-After"));
        drop(silent);
        while !ask().starts_with("HTTP/1.1 200 ") {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn an_address_in_use_is_an_error_and_free_after_the_server() {
        let server = server();
        let address = server.address();
        let handler: Arc<Handler> = Arc::new(|_: &str| Response::error(404));
        let error = Server::start(address, Arc::clone(&handler)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(server);
        Server::start(address, handler).unwrap();
    }
}
