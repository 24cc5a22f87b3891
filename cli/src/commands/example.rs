//! `example web`: a small web server for `examples/hello-web.bcl`, so that trying a service needs
//! no other program. It tells which task answered, and at `/metrics` how often it was asked.

use super::exporter;
use clap::Subcommand;
use nix::sys::signal::{SigSet, Signal};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Connections served at once; more are closed unanswered.
const MAX_CONNECTIONS: usize = 64;
/// Longest head of a request in bytes.
const MAX_HEAD_BYTES: u64 = 16 << 10;
/// Time for a client to send its request and take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Programs for examples.
#[derive(Debug, Subcommand)]
pub enum ExampleCommand {
    /// Serve a page that names the task
    Web {
        /// The port
        #[arg(long)]
        port: u16,
        /// The address to listen on
        #[arg(long, default_value_t = Ipv4Addr::UNSPECIFIED)]
        host: Ipv4Addr,
        /// A line of the page, to tell versions apart
        #[arg(long, value_name = "TEXT")]
        say: Option<String>,
        /// Answer health checks at /healthz with an error
        #[arg(long)]
        sick: bool,
        /// Go on serving for so long after SIGTERM: whoever knew the address is still answered
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
        linger: Duration,
    },
    /// Serve figures of the machine for Prometheus
    Exporter {
        /// The port
        #[arg(long)]
        port: u16,
        /// The address to listen on
        #[arg(long, default_value_t = Ipv4Addr::UNSPECIFIED)]
        host: Ipv4Addr,
    },
}

/// Runs until a signal ends the process.
pub(super) fn run(command: ExampleCommand) -> io::Result<()> {
    let (port, host, say, sick, linger) = match command {
        ExampleCommand::Web { port, host, say, sick, linger } => (port, host, say, sick, linger),
        ExampleCommand::Exporter { port, host } => return exporter::run(host, port),
    };
    let mut asked = SigSet::empty();
    asked.add(Signal::SIGTERM);
    // Threads that are begun from here on do not take it either.
    asked.thread_block()?;
    let page = Page { text: page(say.as_deref()), sick };
    let listener = TcpListener::bind((host, port))?;
    let (over, ended) = std::sync::mpsc::channel();
    let failed = over.clone();
    std::thread::spawn(move || failed.send(serve(listener, Arc::new(page))));
    std::thread::spawn(move || {
        let signal = asked.wait();
        std::thread::sleep(linger);
        over.send(signal.map(drop).map_err(io::Error::from))
    });
    // One of the two speaks, or nobody ever ends.
    ended.recv().unwrap_or(Ok(()))
}

/// What is served.
struct Page {
    text: String,
    /// Whether health checks fail.
    sick: bool,
}

fn serve(listener: TcpListener, page: Arc<Page>) -> io::Result<()> {
    let (open, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    loop {
        let (connection, _) = match listener.accept() {
            Ok(accepted) => accepted,
            // The client was gone before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (page, done, asked) = (page.clone(), open.clone(), asked.clone());
        std::thread::spawn(move || {
            // A client that breaks off harms only itself.
            answer(&connection, &page, &asked).ok();
            done.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn answer(connection: &TcpStream, page: &Page, asked: &AtomicU64) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut head = BufReader::new(io::Read::take(connection, MAX_HEAD_BYTES));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
    let metrics = format!(
        "# HELP example_requests_total Requests that were answered\n# TYPE example_requests_total counter\n\
         example_requests_total {asked}\n"
    );
    let mut words = request.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some("/healthz")) if page.sick => {
            ("503 Service Unavailable", "sick\n")
        }
        (Some("GET" | "HEAD"), Some("/" | "/healthz")) => ("200 OK", page.text.as_str()),
        (Some("GET" | "HEAD"), Some("/metrics")) => ("200 OK", metrics.as_str()),
        (Some("GET" | "HEAD"), Some(_)) => ("404 Not Found", "not found\n"),
        (Some(_), Some(_)) => ("405 Method Not Allowed", "GET only\n"),
        _ => ("400 Bad Request", "not HTTP\n"),
    };
    let shown = if request.starts_with("HEAD") { "" } else { body };
    let length = body.len();
    let mut connection = connection;
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{shown}"
    )
}

fn page(say: Option<&str>) -> String {
    let told = |name: &str| std::env::var(name).unwrap_or_else(|_| "-".into());
    let host = nix::unistd::gethostname()
        .map_or_else(|_| "-".into(), |name| name.to_string_lossy().into_owned());
    format!(
        "Hello from {}/{}/{}\ncell {}\nincarnation {}\nhost {host}\npid {}\n{}",
        told("BORG_USER"),
        told("BORG_JOB"),
        told("BORG_TASK"),
        told("BORG_CELL"),
        told("BORG_INCARNATION"),
        std::process::id(),
        say.map_or_else(String::new, |say| format!("{say}\n")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    fn hello(sick: bool) -> Page {
        Page { text: "Hello\n".into(), sick }
    }

    #[test]
    fn a_sick_server_says_so_where_its_health_is_asked_for_and_serves_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(listener, Arc::new(hello(true))));
        assert!(ask(address, "GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn several_clients_get_the_page_while_one_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(listener, Arc::new(hello(false))));
        let silent = TcpStream::connect(address).unwrap();
        for _ in 0..3 {
            let page = ask(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(
                page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nHello\n"),
                "{page}"
            );
        }
        let metrics = ask(address, "GET /metrics HTTP/1.1\r\n\r\n");
        assert!(metrics.ends_with("\nexample_requests_total 4\n"), "{metrics}");
        assert!(ask(address, "GET /none HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask(address, "\r\n\r\n").starts_with("HTTP/1.1 400"));
        drop(silent);
    }
}
