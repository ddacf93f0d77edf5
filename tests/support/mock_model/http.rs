//! Just enough HTTP/1.1: one thread a connection, chunked streams, and a reset in mid-stream when the scenario says so.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::scenario::Item;
use super::{Shared, anthropic, ollama, responses};

/// A request, read whole.
struct Request {
    method: String,
    path: String,
    body: Value,
    size: usize,
}

/// Answers one request.
pub(super) struct Reply<'a> {
    stream: &'a TcpStream,
    pub(super) shared: &'a Shared,
}

pub(super) fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _ = talk(&stream, &shared); // an agent that hangs up is no fault of the server
        });
    }
}

fn talk(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let reply = Reply { stream, shared };
        route(&request, &reply)?;
    }
    Ok(())
}

fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let (mut length, mut chunked) = (0usize, false);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "transfer-encoding" => chunked = value.to_ascii_lowercase().contains("chunked"),
            "expect" => reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim().split(';').next().unwrap_or_default(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2]; // with its line end
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else {
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
    }
    let size = body.len();
    Ok(Some(Request { method, path, body: serde_json::from_slice(&body).unwrap_or(Value::Null), size }))
}

fn route(request: &Request, reply: &Reply<'_>) -> io::Result<()> {
    let (path, body) = (request.path.as_str(), &request.body);
    match request.method.as_str() {
        "HEAD" => reply.raw(200, "text/plain", &[], b""),
        "GET" => match path {
            "/v1/models" | "/models" => {
                let model = |id: &str| json!({ "id": id, "object": "model", "type": "model", "display_name": id, "owned_by": "mock" });
                let data: Vec<Value> = ["mock-model", "gpt-5"].into_iter().map(model).collect();
                reply.json(200, &[], &json!({ "object": "list", "models": [], "data": data, "has_more": false }))
            }
            "/" => reply.raw(200, "text/plain", &[], b"Ollama is running"),
            _ if path.starts_with("/api/") => ollama::get(path, reply),
            _ => reply.not_found(),
        },
        _ if path.ends_with("/messages/count_tokens") => {
            reply.json(200, &[], &json!({ "input_tokens": request.size / 4 + 1 }))
        }
        _ if path.ends_with("/messages") => anthropic::answer(body, reply),
        _ if path.ends_with("/responses") => responses::answer(body, reply),
        _ if path.starts_with("/api/") => ollama::post(path, body, reply),
        _ if path == "/__mock/scenario" => {
            let name = body.get("scenario").and_then(Value::as_str).unwrap_or("plain");
            reply.shared.state.lock().unwrap().scenario = name.to_owned();
            reply.json(200, &[], &json!({}))
        }
        _ => reply.not_found(),
    }
}

impl Reply<'_> {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(bytes)
    }

    fn raw(&self, status: u16, kind: &str, headers: &[(String, String)], body: &[u8]) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        self.write(&[head.as_bytes(), body].concat())
    }

    pub(super) fn json(&self, status: u16, headers: &[(String, String)], body: &Value) -> io::Result<()> {
        self.raw(status, "application/json", headers, body.to_string().as_bytes())
    }

    pub(super) fn not_found(&self) -> io::Result<()> {
        self.json(404, &[], &json!({ "error": { "message": "not found", "type": "not_found_error" } }))
    }

    pub(super) fn start_stream(&self, kind: &str) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        self.write(head.as_bytes())
    }

    pub(super) fn chunk(&self, text: &str) -> io::Result<()> {
        self.write(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
    }

    /// A server-sent event.
    pub(super) fn event(&self, data: &Value) -> io::Result<()> {
        let name = data.get("type").and_then(Value::as_str).unwrap_or_default();
        self.chunk(&format!("event: {name}\ndata: {data}\n\n"))
    }

    pub(super) fn end_stream(&self) -> io::Result<()> {
        self.write(b"0\r\n\r\n")
    }

    /// Streams a text item, three words a piece; fails in the middle where the scenario cuts the connection.
    pub(super) fn pieces(&self, item: &Item, mut each: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        let Item::Text { text, first, pace, cut } = item else { return Ok(()) };
        self.hold(*first)?;
        let mut sent = 0;
        let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
        for piece in words.chunks(3) {
            let piece = piece.concat();
            each(&piece)?;
            sent += piece.len();
            if cut.is_some_and(|cut| sent >= cut) {
                std::thread::sleep(Duration::from_millis(200)); // the agent is to see the words first
                return self.reset();
            }
            std::thread::sleep(pace.unwrap_or(self.shared.pace));
        }
        Ok(())
    }

    /// Waits, but not for an agent that is gone.
    fn hold(&self, time: Duration) -> io::Result<()> {
        let until = std::time::Instant::now() + time;
        while std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50).min(time));
            self.stream.set_nonblocking(true)?;
            let gone = matches!(self.stream.peek(&mut [0]), Ok(0));
            self.stream.set_nonblocking(false)?;
            if gone {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_linger(self.stream, Some(Duration::ZERO))?;
        Err(io::ErrorKind::ConnectionReset.into())
    }
}
