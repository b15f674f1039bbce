//! A channel between two processes: whole messages, with descriptors. One per worker, for what is rare; tasks do not
//! go this way.
//!
//! A `SOCK_SEQPACKET` pair keeps messages apart, needs no name, and tells each end when the last copy of the other is
//! closed, however its process went. Rules:
//! 1. A message has at least one byte: an empty one would look like the end ([`Received::Closed`]).
//! 2. A message arrives whole, or is an error and lost: one that was cut, or lost a descriptor, is never given out.
//! 3. Descriptors arrive close-on-exec, and belong to somebody from the first moment: none leaks on an error.
//! 4. Sending never waits: a stopped peer does not stop us. `EAGAIN` says that its queue is full.
//!
//! Killed here? A message is sent by one system call: it was sent or it was not. Descriptors in a message that nobody
//! receives are closed with the channel.

use super::{descriptor, process::poll};
use crate::{atomic::step, error::OsError};
use rustix::{
    fd::{BorrowedFd, OwnedFd},
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use std::{
    mem::MaybeUninit,
    time::{Duration, Instant},
};

/// The most descriptors that the kernel takes in one message (`SCM_MAX_FD`).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

fn os(call: &'static str) -> impl Fn(Errno) -> OsError {
    move |errno| OsError::new(call, errno.raw_os_error())
}

/// What [`receive`] found.
#[derive(Debug)]
#[must_use]
pub(crate) enum Received {
    /// A message: the first `len` bytes of the buffer, and descriptors.
    Message {
        /// How many bytes of the buffer.
        len: usize,
        /// The descriptors, in the order in which they were sent.
        fds: Vec<OwnedFd>,
    },
    /// Nothing in time.
    Nothing,
    /// The other end is closed: nothing will come any more.
    Closed,
}

/// Two ends, both close-on-exec: ours, and the one to hand to a child.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), OsError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(os("socketpair"))
        .and_then(|(ours, theirs)| Ok((descriptor::high(ours)?, descriptor::high(theirs)?)))
}

/// Sends one message, with descriptors. Does not wait.
///
/// # Errors
/// `EAGAIN`: the peer's queue is full. `EPIPE`, `ECONNRESET`: it is gone (no SIGPIPE). `EMSGSIZE`: too long (some
/// 200 KiB). `EINVAL`: no byte, or too many descriptors. `ETOOMANYREFS`: too many descriptors under way.
pub(crate) fn send(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), OsError> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds));
    if bytes.is_empty() || !fits {
        return Err(OsError::new("sendmsg", libc::EINVAL));
    }
    step();
    loop {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()), // whole: SOCK_SEQPACKET does not split
            Err(Errno::INTR) => {}
            Err(e) => return Err(os("sendmsg")(e)),
        }
    }
}

/// Receives one message of at most `buffer.len()` bytes and `max_fds` descriptors. Waits for at most `timeout`: `None`
/// for ever, zero not at all.
///
/// # Errors
/// The message is lost: `EMSGSIZE`, it was longer than the buffer or carried more than `max_fds` descriptors;
/// `EMFILE`, this process has no room for its descriptors.
pub(crate) fn receive(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
    max_fds: usize,
    timeout: Option<Duration>,
) -> Result<Received, OsError> {
    // A time-out that is too large for a clock is none.
    let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
    let mut expired = timeout == Some(Duration::ZERO);
    loop {
        match receive_now(from, buffer, max_fds)? {
            Received::Nothing if expired => return Ok(Received::Nothing),
            Received::Nothing => {}
            found => return Ok(found),
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        // One more look after the last wait: a message that came at the last moment is not left behind.
        expired = poll(&[from], left)? == [false];
    }
}

fn receive_now(from: BorrowedFd<'_>, buffer: &mut [u8], max_fds: usize) -> Result<Received, OsError> {
    // Room for all that can come, so that cut control data means one thing only.
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = loop {
        match rustix::net::recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(message) => break message,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            // The peer closed with unread messages of ours.
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(Errno::INTR) => {}
            Err(e) => return Err(os("recvmsg")(e)),
        }
    };
    // Owned before anything is judged: rule 3.
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(OsError::new("recvmsg (descriptors)", libc::EMFILE));
    }
    if message.flags.contains(ReturnFlags::TRUNC) || fds.len() > max_fds {
        return Err(OsError::new("recvmsg (too long)", libc::EMSGSIZE));
    }
    let fds = fds.into_iter().map(descriptor::high).collect::<Result<_, _>>()?;
    match message.bytes {
        0 => Ok(Received::Closed),
        len => Ok(Received::Message { len, fds }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::{
        fs::File,
        io::{Read, Write},
    };

    fn message(from: &OwnedFd, buffer: &mut [u8]) -> (usize, Vec<OwnedFd>) {
        match receive(from.as_fd(), buffer, 4, Some(Duration::from_secs(60))).unwrap() {
            Received::Message { len, fds } => (len, fds),
            other => panic!("expected a message, found {other:?}"),
        }
    }

    fn now(from: &OwnedFd) -> Result<Received, OsError> {
        receive(from.as_fd(), &mut [0; 4], 1, Some(Duration::ZERO))
    }

    #[test]
    fn messages_stay_apart_and_then_the_end_is_seen() {
        let (ours, theirs) = pair().unwrap();
        assert!(matches!(now(&theirs), Ok(Received::Nothing)));
        assert!(matches!(
            receive(theirs.as_fd(), &mut [0; 4], 0, Some(Duration::from_millis(1))),
            Ok(Received::Nothing)
        ));
        send(ours.as_fd(), b"one", &[]).unwrap();
        send(ours.as_fd(), b"second", &[]).unwrap();
        drop(ours);
        let mut buffer = [0; 16];
        assert_eq!(message(&theirs, &mut buffer).0, 3);
        assert_eq!(&buffer[..3], b"one");
        assert_eq!(message(&theirs, &mut buffer).0, 6);
        assert_eq!(&buffer[..6], b"second");
        assert!(matches!(receive(theirs.as_fd(), &mut buffer, 0, None), Ok(Received::Closed)));
        let error = send(theirs.as_fd(), b"x", &[]).unwrap_err();
        assert_eq!(error.errno, libc::EPIPE);
    }

    #[test]
    fn unread_messages_do_not_hide_the_end() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"never read", &[]).unwrap();
        drop(theirs);
        assert!(matches!(receive(ours.as_fd(), &mut [0; 4], 0, None), Ok(Received::Closed)));
    }

    #[test]
    fn a_descriptor_that_arrives_is_the_same_file() {
        let (ours, theirs) = pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let memfd = rustix::fs::memfd_create(c"test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        send(ours.as_fd(), b"two", &[write.as_fd(), memfd.as_fd()]).unwrap();
        drop(write);
        let (_, mut fds) = message(&theirs, &mut [0; 8]);
        assert_eq!(fds.len(), 2);
        for fd in &fds {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        let (sent, arrived) = (rustix::fs::fstat(&memfd).unwrap(), rustix::fs::fstat(&fds[1]).unwrap());
        assert_eq!((sent.st_dev, sent.st_ino), (arrived.st_dev, arrived.st_ino));
        let mut write = File::from(fds.swap_remove(0));
        write.write_all(b"through").unwrap();
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_message_that_is_too_long_is_lost_with_its_descriptors() {
        let (ours, theirs) = pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        send(ours.as_fd(), b"12345", &[write.as_fd()]).unwrap();
        send(ours.as_fd(), b"1234", &[write.as_fd(), write.as_fd()]).unwrap();
        send(ours.as_fd(), b"1234", &[]).unwrap();
        drop(write);
        assert_eq!(now(&theirs).unwrap_err().errno, libc::EMSGSIZE, "the buffer takes 4 bytes");
        assert_eq!(now(&theirs).unwrap_err().errno, libc::EMSGSIZE, "one descriptor was allowed");
        // No copy of the pipe's other end is left open, or this would wait for ever.
        assert_eq!(read.read(&mut [0]).unwrap(), 0);
        assert!(matches!(now(&theirs), Ok(Received::Message { len: 4, .. })));
    }

    #[test]
    fn sending_never_waits() {
        let (ours, theirs) = pair().unwrap();
        let error = loop {
            if let Err(error) = send(ours.as_fd(), &[7; 4096], &[]) {
                break error;
            }
        };
        assert_eq!(error.errno, libc::EAGAIN);
        message(&theirs, &mut [0; 4096]);
        for refused in
            [send(ours.as_fd(), b"", &[]), send(ours.as_fd(), b"x", &[ours.as_fd(); MAX_DESCRIPTORS + 1])]
        {
            assert_eq!(refused.unwrap_err().errno, libc::EINVAL);
        }
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_takes() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"x", &[ours.as_fd(); MAX_DESCRIPTORS]).unwrap();
        let received = receive(theirs.as_fd(), &mut [0], MAX_DESCRIPTORS, None).unwrap();
        assert!(matches!(received, Received::Message { len: 1, fds } if fds.len() == MAX_DESCRIPTORS));
    }
}
