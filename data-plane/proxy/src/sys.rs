//! The one module with `unsafe`: file descriptors that another process sent over a unix socket become owned ones, and
//! the kernel is asked what it knows of a connection, and kernel and allocator what memory is needed no more. Never
//! interprets what it receives.

#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{
    cmsg_space, libc,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};

/// The most descriptors that one message can carry (`SCM_MAX_FD` of the kernel).
pub(crate) const MAX_FDS: usize = 253;

/// Sends one packet together with `fds`. Doesn't block.
pub(crate) fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?;
    Ok(())
}

/// Receives one packet with the descriptors that came with it. Doesn't block. A length of 0 is the end.
pub(crate) fn recv_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; MAX_FDS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for this process and told nobody else of them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

/// Whether the kernel has sent something again, because the peer's kernel acknowledged nothing for a while (at least 200
/// ms), and still waits. False of anything that isn't a TCP socket.
pub(crate) fn is_unacknowledged(socket: RawFd) -> bool {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has as many and outlives the call.
    let failed = unsafe {
        libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    // SAFETY: all fields are integers, so that zeroes, or whatever the kernel has written over them, are a value.
    failed == 0 && unsafe { info.assume_init() }.tcpi_retransmits > 0
}

/// Forgets that pages of a loaded program or library have been touched.
pub(crate) fn forget_file_pages(start: usize, length: usize) -> io::Result<()> {
    let start = ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller has found an unchanged, private, read-only mapping of a loaded object. It stays mapped, and whoever
    // reads it again gets the same bytes from the same file.
    let failed = unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that the allocator has given out; `None` where it doesn't say.
pub(crate) fn allocated() -> Option<usize> {
    // SAFETY: it reads the allocator's own books, under their locks.
    #[cfg(target_env = "gnu")]
    return Some(unsafe { libc::mallinfo2() }).map(|info| info.uordblks + info.hblkhd);
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Lets the allocator give free pages back to the kernel, of all its arenas.
pub(crate) fn give_back_free_memory() {
    // SAFETY: it takes the allocator's own locks and touches nothing that is allocated.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Large blocks are the kernel's, each by itself, and go back to it when they are freed. By itself glibc would get used
/// to them and keep them.
pub(crate) fn map_large_blocks(from: i32) {
    // SAFETY: it sets a number, under the allocator's own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, from);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = from;
}
