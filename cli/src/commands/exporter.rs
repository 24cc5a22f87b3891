//! `example exporter`: the machine's load and memory as figures for Prometheus, for
//! `examples/node-exporter.bcl`.
//!
//! One connection at a time: who scrapes comes every few seconds.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

/// Longest head of a request in bytes.
const MAX_HEAD_BYTES: u64 = 16 << 10;
/// Time for a client to send its request and take the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs until a signal ends the process.
pub(super) fn run(host: Ipv4Addr, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((host, port))?;
    loop {
        match listener.accept() {
            // A client that breaks off harms only itself.
            Ok((connection, _)) => answer(&connection).unwrap_or_default(),
            // The client was gone before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn answer(connection: &TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut head = BufReader::new(Read::take(connection, MAX_HEAD_BYTES));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => ("200 OK", figures()),
        (Some("GET"), Some(_)) => ("404 Not Found", "figures are at /metrics\n".to_owned()),
        (Some(_), _) => ("405 Method Not Allowed", "GET only\n".to_owned()),
        (None, _) => ("400 Bad Request", "not HTTP\n".to_owned()),
    };
    let length = body.len();
    let mut connection = connection;
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// What the kernel tells of the machine.
fn figures() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text(&load, &memory)
}

/// The same as Prometheus reads it. What is not told is left out.
fn text(load: &str, memory: &str) -> String {
    let of = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line?.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
        Some((kib * 1024).to_string())
    };
    let load = load.split_ascii_whitespace().next().filter(|load| load.parse::<f64>().is_ok());
    let told = [
        (
            "node_load1",
            "Tasks that run or want to, on average over a minute.",
            load.map(str::to_owned),
        ),
        ("node_memory_MemTotal_bytes", "Memory of the machine.", of("MemTotal")),
        ("node_memory_MemAvailable_bytes", "Memory that could be used.", of("MemAvailable")),
    ];
    let line = |(name, help, value): (&str, &str, Option<String>)| {
        value.map(|value| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"))
    };
    told.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read_by_prometheus() {
        let told = text(
            "0.25 0.5 1.0 2/300 77\n",
            "MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable: 8 kB\n",
        );
        let figures: Vec<&str> = told.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            figures,
            [
                "node_load1 0.25",
                "node_memory_MemTotal_bytes 16384",
                "node_memory_MemAvailable_bytes 8192"
            ]
        );
        assert_eq!(text("", "MemTotal: many kB\n"), "");
    }
}
