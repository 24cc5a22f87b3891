//! Networks of tasks' own, each test on a machine whose network is a namespace made for it: the computer's
//! own interfaces are never touched.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use borglet::container::{ContainerSpec, StartError, Started};
use borglet::executor::{Executor, Found};
use borglet::isolation::IsolationWanted;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use super::machine::{Machine, PATIENCE, exited, id, shell, within};

const RANGE: &str = "10.88.3.0/28";
const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 88, 3, 1);

/// Runs a test on a machine of its own network, with addresses for tasks.
fn apart(test: impl FnOnce(Machine) + Send) {
    load_pairs();
    let Some(usual) = Machine::full() else { return };
    let mut config = usual.config.clone();
    usual.close();
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        borglet::network::loopback_up().unwrap();
        // A new namespace has what the computer's has.
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        config.dir = dir.path().join("machine");
        config.network = Some(RANGE.parse().unwrap());
        let executor = Executor::open(config.clone()).unwrap();
        executor.adopt().unwrap();
        executor.try_networks().unwrap().unwrap();
        test(Machine::of(executor, config, dir));
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
}

/// Pairs of interfaces are a module of the guest's kernel, which nobody loads there for us.
fn load_pairs() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let modules = Path::new("/usr/lib/uml/modules").join(release.trim());
    let Ok(module) = File::open(modules.join("kernel/drivers/net/veth.ko")) else { return };
    // SAFETY: the arguments are a descriptor, a C string and a number.
    #[expect(unsafe_code, reason = "no safe wrapper is at hand")]
    let loaded =
        unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
    let error = std::io::Error::last_os_error();
    assert!(loaded == 0 || error.raw_os_error() == Some(libc::EEXIST), "load it: {error}");
}

fn own(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec { own_network: true, ..shell(name, script) }
}

/// A server in Perl that says `word` to each caller, and tells once it listens.
fn server(port: u16, word: &str) -> String {
    format!(
        "exec perl -MIO::Socket::INET -e '$| = 1; $s = IO::Socket::INET->new(Listen => 5, \
         LocalAddr => \"0.0.0.0:{port}\") or die \"listen: $!\"; print \"listens\\n\"; \
         while ($c = $s->accept) {{ print $c \"{word}\\n\"; print \"called by \" . $c->peerhost . \"\\n\"; \
         close $c }}'"
    )
}

/// A caller in Perl that prints what it hears, or that it heard nothing.
fn call(host: &str, port: u16) -> String {
    format!(
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(PeerAddr => \"{host}:{port}\", \
         Timeout => 3); print $s ? <$s> : \"nobody\\n\"'"
    )
}

fn heard(at: Ipv4Addr, port: u16) -> String {
    let at = SocketAddr::from((at, port));
    let mut said = String::new();
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(10)).unwrap();
    stream.read_to_string(&mut said).unwrap();
    said
}

/// Interfaces of this thread's network, but for the loopback.
fn interfaces() -> Vec<String> {
    let all = nix::net::if_::if_nameindex().unwrap();
    let names = all.iter().map(|one| one.name().to_string_lossy().into_owned());
    names.filter(|name| name != "lo").collect()
}

fn address(machine: &Machine, name: &str) -> Ipv4Addr {
    machine.executor.address(&id(name)).unwrap()
}

#[test]
fn a_task_and_its_machine_reach_each_other_and_the_loopbacks_are_apart() {
    apart(|machine| {
        let here = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7_001)).unwrap();
        let private = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_002)).unwrap();
        let caller = std::thread::spawn(move || {
            let (mut stream, from) = here.accept().unwrap();
            stream.write_all(b"machine\n").unwrap();
            from.ip()
        });
        // Port 80 is as good as any, on its own address.
        machine.start(own("server", &server(80, "task")));
        machine.until_said(&id("server"), "listens");
        let at = address(&machine, "server");
        assert_eq!(heard(at, 80), "task\n");
        machine.until_said(&id("server"), &format!("called by {MACHINE}"));

        let script = format!(
            "echo $BORG_ADDRESS; grep -c \" $(hostname)$\" /etc/hosts; {}; {}; {}; cat /proc/net/dev",
            call("10.88.3.1", 7_001),
            call("127.0.0.1", 7_002),
            call("10.88.3.1", 7_002),
        );
        let (record, said) = machine.run(own("caller", &script));
        assert_eq!(record.outcome, exited(0));
        let lines: Vec<&str> = said.lines().collect();
        let mine = address(&machine, "caller").to_string();
        assert_eq!(lines[..5], [&mine, "1", "machine", "nobody", "nobody"], "{said}");
        assert_eq!(caller.join().unwrap().to_string(), mine);
        let seen = lines.iter().filter(|line| line.contains(':')).count();
        assert_eq!(seen, 2, "its own loopback and its own interface: {said}");
        drop(private);
        machine.executor.kill(&id("server")).unwrap();
        machine.wait(&id("server"));
        assert!(within(PATIENCE, || interfaces().is_empty()), "{:?}", interfaces());
        machine.close();
    });
}

#[test]
fn two_tasks_listen_on_one_port_and_reach_each_other() {
    apart(|machine| {
        for name in ["one", "two"] {
            machine.start(own(name, &server(8_000, name)));
            machine.until_said(&id(name), "listens");
        }
        let [one, two] = ["one", "two"].map(|name| address(&machine, name));
        assert_eq!((heard(one, 8_000), heard(two, 8_000)), ("one\n".into(), "two\n".into()));
        let (_, said) = machine.run(own("third", &call(&two.to_string(), 8_000)));
        assert_eq!(said, "two\n");
        // The neighbour sees who calls.
        let third = address(&machine, "third");
        machine.until_said(&id("two"), &format!("called by {third}"));
        for name in ["one", "two"] {
            machine.executor.kill(&id(name)).unwrap();
            machine.wait(&id(name));
        }
        machine.close();
    });
}

/// Root in the task is nobody in the network's own user namespace: it may neither change it nor hear what is not
/// for it.
#[test]
fn a_task_has_no_power_over_its_network_and_no_raw_sockets() {
    apart(|machine| {
        // IPv4, IPv6 and packet sockets; then an address of the neighbour's.
        let script = "perl -e 'use Socket; for ([2, 3, 1], [10, 3, 58], [17, 3, 0x300], [17, 2, 0x300]) { \
            print socket(my $s, $_->[0], $_->[1], $_->[2]) ? \"open\\n\" : \"refused\\n\" }'; \
            perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, \
            LocalAddr => \"10.88.3.9:80\") ? \"bound\\n\" : \"refused\\n\"'; \
            for f in forwarding rp_filter; do \
            echo 1 > /proc/sys/net/ipv4/conf/eth0/$f 2>/dev/null && echo set; done; \
            (unshare -n true) 2>/dev/null && echo another; nsenter --net=/proc/1/ns/net true 2>/dev/null && echo again; id -u";
        let (_, said) = machine.run(own("a", script));
        assert_eq!(said, "refused\n".repeat(5) + "0\n");
        machine.close();
    });
}

/// Sent by root of the machine from within the task's namespace, which a task is not: the machine's route
/// is a wall of its own.
#[test]
fn packets_under_another_address_do_not_leave_a_tasks_interface() {
    apart(|machine| {
        let started = machine.start(own("liar", "exec sleep 70101"));
        machine.start(own("victim", "exec sleep 70101"));
        let listener = UdpSocket::bind((MACHINE, 7_003)).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let network = File::open(format!("/proc/{}/ns/net", started.pid)).unwrap();
        let send = |from: Ipv4Addr, word: &'static [u8]| {
            let inside = || {
                setns(network.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                let kind = nix::sys::socket::SockType::Datagram;
                let none = nix::sys::socket::SockFlag::empty();
                let family = nix::sys::socket::AddressFamily::Inet;
                let socket = nix::sys::socket::socket(family, kind, none, None).unwrap();
                setsockopt(&socket, sockopt::IpTransparent, &true).unwrap();
                let socket = {
                    let at =
                        nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(from, 9));
                    nix::sys::socket::bind(socket.as_raw_fd(), &at).unwrap();
                    UdpSocket::from(socket)
                };
                socket.send_to(word, (MACHINE, 7_003)).unwrap();
            };
            std::thread::scope(|scope| scope.spawn(inside).join()).unwrap();
        };
        let mut buffer = [0; 16];
        let own_address = address(&machine, "liar");
        for other in [address(&machine, "victim"), Ipv4Addr::new(192, 0, 2, 7), MACHINE] {
            send(other, b"lie");
            let heard = listener.recv_from(&mut buffer);
            assert!(heard.is_err(), "{other}: {heard:?}");
        }
        send(own_address, b"truth");
        let (length, from) = listener.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"truth"[..], own_address.into()));
        for name in ["liar", "victim"] {
            machine.executor.kill(&id(name)).unwrap();
            machine.wait(&id(name));
        }
        machine.close();
    });
}

#[test]
fn nothing_is_left_of_a_network_however_its_task_ends() {
    apart(|machine| {
        let mut addresses = Vec::new();
        for n in 0..20 {
            let name = format!("c{n}");
            let started: Started = machine.start(own(&name, "(setsid sleep 70102 &) ; sleep 0.1"));
            addresses.push(started.address.unwrap());
            if n % 3 == 0 {
                kill(Pid::from_raw(started.shim_pid), Signal::SIGKILL).unwrap();
            }
            machine.wait(&id(&name));
            machine.executor.cleanup(&id(&name)).unwrap();
            machine.executor.remove_logs(&id(&name)).unwrap();
        }
        // More than the range has: each was given back.
        assert!(addresses[13..].iter().all(|one| addresses[..13].contains(one)), "{addresses:?}");
        let refused = machine.executor.start(ContainerSpec {
            own_network: true,
            ..ContainerSpec::new(id("none"), vec!["/no/such/program".into()])
        });
        assert!(matches!(refused, Err(StartError::ProgramNotFound { .. })), "{refused:?}");
        assert!(within(PATIENCE, || interfaces().is_empty()), "{:?}", interfaces());
        machine.close();
    });
}

#[test]
fn when_all_addresses_are_taken_a_start_says_so() {
    apart(|machine| {
        for n in 0..13 {
            machine.start(own(&format!("c{n}"), "exec sleep 70103"));
        }
        let refused = machine.executor.start(own("more", "true")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no address of 10.88.3.0/28 is free: perhaps their tasks still end"
        );
        assert!(!refused.is_fault_of_task(), "another machine may have one");
        assert_eq!(machine.run(shell("usual", "true")).0.outcome, exited(0));
        for n in 0..13 {
            machine.executor.kill(&id(&format!("c{n}"))).unwrap();
            machine.wait(&id(&format!("c{n}")));
        }
        machine.close();
    });
}

/// The borglet ends, as if it were replaced; the next one knows who has which address, and what nobody has any
/// more it removes.
#[test]
fn the_next_borglet_knows_the_addresses_and_sweeps_what_is_left() {
    apart(|machine| {
        let kept = machine.start(own("kept", &server(8_000, "still here")));
        machine.until_said(&id("kept"), "listens");
        let gone = machine.start(own("gone", "exec sleep 70104"));
        // Somebody looks into the network of a task and stays there.
        let held = File::open(format!("/proc/{}/ns/net", gone.pid)).unwrap();
        machine.executor.kill(&id("gone")).unwrap();
        machine.wait(&id("gone"));
        machine.executor.cleanup(&id("gone")).unwrap();
        machine.executor.remove_logs(&id("gone")).unwrap();
        // That of the trial goes by itself.
        assert!(within(PATIENCE, || interfaces().len() == 2), "{:?}", interfaces());

        let machine = machine.replaced(|executor| {
            let adopted = executor.adopt().unwrap();
            assert_eq!(adopted[0].found, Found::Running(kept.clone()));
        });
        assert_eq!(interfaces().len(), 1, "{:?}", interfaces());
        drop(held);
        let at = address(&machine, "kept");
        assert_eq!(Some(at), kept.address);
        assert_eq!(heard(at, 8_000), "still here\n");
        for n in 0..12 {
            let started = machine.start(own(&format!("c{n}"), "true"));
            assert_ne!(started.address, Some(at));
        }
        for name in machine.executor.ids() {
            machine.executor.kill(&name).unwrap();
            machine.wait(&name);
        }
        machine.close();
    });
}

#[test]
fn without_isolation_a_network_of_its_own_is_refused_and_the_reason_told() {
    let machine = Machine::with(IsolationWanted::NONE);
    let mut config = machine.config.clone();
    let refused = machine.executor.start(own("a", "true")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "give it an address of its own: this machine has no addresses for tasks (borglet --task-network)"
    );
    machine.close();
    let dir = tempfile::tempdir().unwrap();
    config.dir = dir.path().join("machine");
    config.network = Some(RANGE.parse().unwrap());
    config.isolation = IsolationWanted::NONE;
    let executor = Executor::open(config).unwrap();
    let why = executor.try_networks().unwrap_err();
    assert!(why.contains("no root or no namespaces"), "{why}");
}
