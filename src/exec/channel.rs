//! What do wrapper and keeper tell each other?

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
}

impl Message {
    const BYTES: usize = 5;

    fn encode(self) -> [u8; Self::BYTES] {
        let (kind, value) = match self {
            Self::Stopped => (0, 0),
            Self::Ask => (1, 0),
            Self::Answer => (2, 0),
            Self::Signal(signal) => (3, signal),
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
            _ => Self::Signal(value),
        }
    }
}

/// Sends a message; a partner that is gone does not need it.
pub(super) fn tell(channel: &mut Channel, message: Message) {
    drop(channel.write_all(&message.encode()));
}

/// Receives a message; `None` when the partner is gone.
pub(super) fn hear(channel: &mut Channel) -> Option<Message> {
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
        for message in [Message::Stopped, Message::Ask, Message::Answer, Message::Signal(15)] {
            assert_eq!(Message::decode(message.encode()), message);
        }
    }
}
