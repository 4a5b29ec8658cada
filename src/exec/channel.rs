//! The messages between wrapper and keeper.

use std::io::{Read as _, Write as _};

use crate::sys::{self, Channel, Received};

/// A message, five bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// Wrapper: the command was stopped, and so am I.
    Stopped,
    /// Wrapper: which signals have arrived at yours?
    Ask,
    /// Keeper: all that I have told until now.
    Answer,
    /// Keeper: this signal arrived.
    Signal(i32),
    /// Wrapper: the command exited with this status, and the lock is yours.
    Exited(i32),
    /// The same, but it died of this signal.
    Died(i32),
    /// The same, but the command ran for too long.
    Overtime,
}

impl Message {
    const BYTES: usize = 5;

    fn encode(self) -> [u8; Self::BYTES] {
        let (kind, value) = match self {
            Self::Stopped => (0, 0),
            Self::Ask => (1, 0),
            Self::Answer => (2, 0),
            Self::Signal(signal) => (3, signal),
            Self::Exited(status) => (4, status),
            Self::Died(signal) => (5, signal),
            Self::Overtime => (6, 0),
        };
        let value = value.to_le_bytes();
        [kind, value[0], value[1], value[2], value[3]]
    }

    fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let value = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        match bytes[0] {
            0 => Self::Stopped,
            1 => Self::Ask,
            2 => Self::Answer,
            4 => Self::Exited(value),
            5 => Self::Died(value),
            6 => Self::Overtime,
            _ => Self::Signal(value),
        }
    }
}

/// Sends a message; `false` if the partner is gone.
pub(super) fn send(channel: &mut Channel, message: Message) -> bool {
    channel.write_all(&message.encode()).is_ok()
}

/// Receives a message; `None` when the partner is gone.
pub(super) fn receive(channel: &mut Channel) -> Option<Message> {
    let mut bytes = [0; Message::BYTES];
    channel.read_exact(&mut bytes).ok().map(|()| Message::decode(bytes))
}

/// Tells whether a signal may have been sent to us alone; what comes from the terminal goes to the whole group. Whether
/// a stopped command is to go on is decided by the wrapper alone, by the state of the command.
pub(super) fn is_for_the_command(received: &Received) -> bool {
    !received.from_terminal && ![sys::CHILD_CHANGED, sys::CONTINUE].contains(&received.signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_channel() {
        let with_value = [Message::Signal(15), Message::Exited(3), Message::Died(9)];
        for message in
            [Message::Stopped, Message::Ask, Message::Answer, Message::Overtime].into_iter().chain(with_value)
        {
            assert_eq!(Message::decode(message.encode()), message);
        }
    }
}
