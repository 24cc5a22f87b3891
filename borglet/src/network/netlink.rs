//! The few requests of rtnetlink(7) that a task's network needs, as bytes, and the socket for them.
//!
//! Written by hand: it is six messages of a format that never changes.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Length of a message's header (`nlmsghdr`).
const HEADER: usize = 16;
/// The attribute of a pair's data that holds its other end (linux/veth.h).
const VETH_INFO_PEER: u16 = 1;
/// The interface is up (`IFF_UP` of netdevice(7)).
const UP: u32 = 1;
/// Every network namespace has its loopback under this number.
const LOOPBACK: u32 = 1;
/// The route's gateway is on the other side of its interface although no route says so.
const ONLINK: u32 = 4;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request(Vec<u8>);

impl Request {
    /// Makes a pair of interfaces: `here`, which is up at once, and `there`, which is down, in the network
    /// namespace of an open file.
    pub(super) fn pair(here: &str, there: &str, namespace: &OwnedFd) -> Self {
        let mut request = Self::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        request.put(&interface(0, UP));
        request.text(libc::IFLA_IFNAME, here);
        request.nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.put(&interface(0, 0));
                    peer.text(libc::IFLA_IFNAME, there);
                    peer.attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        request
    }

    /// Sets the loopback going.
    pub(super) fn loopback_up() -> Self {
        Self::up(LOOPBACK)
    }

    /// Sets an interface going.
    pub(super) fn up(index: u32) -> Self {
        let mut request = Self::new(libc::RTM_NEWLINK, 0);
        request.put(&interface(index, UP));
        request
    }

    /// Removes an interface, and with it the other end of its pair.
    pub(super) fn remove(index: u32) -> Self {
        let mut request = Self::new(libc::RTM_DELLINK, 0);
        request.put(&interface(index, 0));
        request
    }

    /// Gives an interface an address, with no network around it.
    pub(super) fn address(index: u32, address: Ipv4Addr) -> Self {
        let mut request = Self::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let [a, b, c, d] = index.to_ne_bytes();
        request.put(&[INET, 32, 0, libc::RT_SCOPE_UNIVERSE, a, b, c, d]);
        request.attribute(libc::IFA_LOCAL, &address.octets());
        request.attribute(libc::IFA_ADDRESS, &address.octets());
        request
    }

    /// Leads packets for one address out of an interface.
    pub(super) fn route_to(address: Ipv4Addr, index: u32) -> Self {
        let mut request = Self::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        request.put(&route(32, libc::RT_SCOPE_LINK, 0));
        request.attribute(libc::RTA_DST, &address.octets());
        request.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        request
    }

    /// Leads all packets that no other route is for to a gateway beyond an interface.
    pub(super) fn route_all(gateway: Ipv4Addr, index: u32) -> Self {
        let mut request = Self::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        request.put(&route(0, libc::RT_SCOPE_UNIVERSE, ONLINK));
        request.attribute(libc::RTA_GATEWAY, &gateway.octets());
        request.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        request
    }

    fn new(kind: u16, flags: i32) -> Self {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let flags = u16::try_from(flags).expect("flags of a request have 16 bits");
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |inside| inside.0.extend_from_slice(value));
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.nest(kind, |inside| {
            inside.0.extend_from_slice(text.as_bytes());
            inside.0.push(0);
        });
    }

    /// An attribute of which `fill` writes the value. Its length is without what fills it up to four bytes.
    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - at).expect("our attributes are short");
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.put(&[]);
    }

    fn finished(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("our requests are short");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// The address family of IPv4 as messages have it.
const INET: u8 = 2;

/// An `ifinfomsg` that sets `flags` and leaves the others.
fn interface(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// An `rtmsg` of the main table.
fn route(length: u8, scope: u8, flags: u32) -> [u8; 12] {
    let [a, b, c, d] = flags.to_ne_bytes();
    let (table, by) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC);
    [INET, length, 0, 0, table, by, scope, libc::RTN_UNICAST, a, b, c, d]
}

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let kind = (SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        Ok(Self(socket(AddressFamily::Netlink, kind.0, kind.1, kind.2)?))
    }

    /// Asks, and waits for the answer, which the kernel has ready at once.
    pub(super) fn ask(&self, request: Request) -> io::Result<()> {
        send(self.0.as_raw_fd(), &request.finished(), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        judge(&answer[..length])
    }
}

/// What the kernel said to a request.
fn judge(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok());
    match (kind.map(i32::from), code.map(i32::from_ne_bytes)) {
        (Some(libc::NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(libc::NLMSG_ERROR), Some(code)) => {
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        (_, _) => Err(io::Error::new(io::ErrorKind::InvalidData, "no answer of netlink's")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_values_and_everything_begins_at_a_multiple_of_four() {
        let bytes = Request::route_to(Ipv4Addr::new(10, 0, 0, 2), 7).finished();
        assert_eq!(bytes.len(), 16 + 12 + 8 + 8);
        assert_eq!(bytes[..4], 44_u32.to_ne_bytes());
        assert_eq!(bytes[28..36], [&8_u16.to_ne_bytes()[..], &[1, 0], &[10, 0, 0, 2]].concat());
        let mut named = Request::new(libc::RTM_NEWLINK, 0);
        named.text(libc::IFLA_IFNAME, "eth0");
        assert_eq!(named.0.len(), 16 + 12, "padded");
        assert_eq!(named.0[16..18], 9_u16.to_ne_bytes(), "without the padding");
    }

    #[test]
    fn answers_are_zero_or_an_error_and_anything_else_is_none() {
        let answer = |code: i32| {
            let mut bytes = vec![0; 36];
            bytes[4] = 2;
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        judge(&answer(0)).unwrap();
        let told = judge(&answer(-libc::EEXIST)).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::AlreadyExists);
        for nonsense in [&[][..], &[0; 19], &[9; 36]] {
            assert_eq!(judge(nonsense).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    /// The kernel takes a request for what it is: only it is asked for an interface that is not there.
    #[test]
    fn the_kernel_reads_what_is_written() {
        let netlink = Netlink::open().unwrap();
        let told = netlink.ask(Request::remove(u32::MAX >> 1)).unwrap_err();
        let told = told.raw_os_error();
        assert!([Some(libc::ENODEV), Some(libc::EPERM)].contains(&told), "{told:?}");
    }
}
