//! Whom a server is talking to. There is room for so many; where all of it is taken, whoever has been
//! listened to for longest and has not asked yet goes for a newcomer.
//!
//! ```text
//!   begin --> listened to --heard--> answered --end-->
//!                 |
//!                 +-- a newcomer needs the place: told, hung up on
//! ```
//! So whoever says nothing keeps out nobody. Threads of those that were hung up on end at once: the
//! read that they wait in is over.

use std::{
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

#[derive(Debug)]
struct Conversation {
    number: u64,
    /// Another handle on the connection.
    stream: UnixStream,
    is_heard: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Conversations {
    /// The oldest first, and how many there have been.
    open: Mutex<(Vec<Conversation>, u64)>,
    most: usize,
}

impl Conversations {
    /// Room for `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { open: Mutex::default(), most }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<Conversation>, &mut u64) -> T) -> T {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, begun) = &mut *open;
        change(open, begun)
    }

    /// A conversation begins; its number. Back comes, if there was no room, whoever has to be hung up
    /// on with [`hang_up`]. `Ok(None)`: all are being answered, and nobody can go.
    ///
    /// # Errors
    /// When the system has no room for another handle on `stream`.
    pub(super) fn begin(
        &self,
        stream: &UnixStream,
    ) -> io::Result<Option<(u64, Option<UnixStream>)>> {
        let stream = stream.try_clone()?;
        Ok(self.with(|open, begun| {
            let silent = open.iter().position(|conversation| !conversation.is_heard);
            let out = match open.len() >= self.most {
                false => None,
                true => Some(open.remove(silent?).stream),
            };
            *begun += 1;
            open.push(Conversation { number: *begun, stream, is_heard: false });
            Some((*begun, out))
        }))
    }

    /// The question is there. False when the connection has been given up for another one.
    pub(super) fn heard(&self, number: u64) -> bool {
        self.with(|open, _| {
            let it = open.iter_mut().find(|conversation| conversation.number == number);
            it.map(|conversation| conversation.is_heard = true).is_some()
        })
    }

    /// It is over.
    pub(super) fn end(&self, number: u64) {
        self.with(|open, _| open.retain(|conversation| conversation.number != number));
    }
}

/// Whoever waits for a byte of `stream` waits no longer.
pub(super) fn hang_up(stream: &UnixStream) {
    // It may be closed already.
    let _ = stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn whoever_has_said_nothing_for_longest_goes_and_nobody_who_has_asked() {
        let conversations = Conversations::new(3);
        let pairs: Vec<_> = (0..6).map(|_| UnixStream::pair().unwrap()).collect();
        let begin = |at: usize| conversations.begin(&pairs[at].0).unwrap();
        let numbers: Vec<_> = (0..3).map(|at| begin(at).unwrap().0).collect();
        assert!(conversations.heard(numbers[0]));
        let (third, out) = begin(3).unwrap();
        hang_up(&out.expect("there is no room"));
        assert_eq!((&pairs[1].1).read(&mut [0]).unwrap(), 0, "it is the second's");
        assert!(!conversations.heard(numbers[1]), "it has gone");
        for number in [numbers[2], third] {
            assert!(conversations.heard(number));
        }
        assert!(begin(4).is_none(), "all have asked");
        conversations.end(numbers[0]);
        assert!(begin(5).unwrap().1.is_none(), "there is room");
    }
}
