//! Waiting for one end of a pipe in asynchronous code, by the runtime that polls it.
//!
//! # Limitations
//! Unless the runtime polls with epoll(7), the end of a pipe's reader may be seen late: the waiter looks again each second.

use std::io;

use tokio::{
    io::Interest,
    net::unix::pipe::{Receiver, Sender},
};

use crate::sys::Event;

/// Waits until the event may have happened: it is to be looked whether it has. Dropped, nothing of it is left.
///
/// # Panics
/// Outside of a Tokio runtime whose input and output are enabled.
pub(crate) async fn ready(event: Event<'_>) -> io::Result<()> {
    // The runtime takes the descriptor over, so it gets a copy.
    match event {
        Event::Readable(end) => Receiver::from_owned_fd(end.try_clone_to_owned()?)?.readable().await,
        // That a pipe has no reader any more is an error of its writing end.
        Event::ReaderGone(end) => {
            Sender::from_owned_fd(end.try_clone_to_owned()?)?.ready(Interest::ERROR).await.map(drop)
        }
    }
}
