//! The text of one scrape, made piece by piece while it is sent.

use super::Traffic;
use super::traffic::FAMILIES;

/// Bytes of a piece, at the most.
pub const CHUNK: usize = 64 << 10;

/// What is held is the counters of [`Traffic`] and one piece, however many series there are.
#[derive(Debug)]
pub struct Exposition {
    /// Written, and not yet given away.
    ready: Vec<u8>,
    traffic: Traffic,
    /// Where the writing goes on: a family, and a port or a backend in it.
    family: usize,
    row: usize,
}

impl Exposition {
    pub(super) fn new(beginning: Vec<u8>, traffic: Traffic) -> Exposition {
        Exposition { ready: beginning, traffic, family: 0, row: 0 }
    }

    /// Writes on; `false` at the end.
    fn write(&mut self) -> bool {
        let Some(family) = FAMILIES.get(self.family) else { return false };
        if self.traffic.write(&mut self.ready, family, self.row) {
            self.row += 1;
        } else {
            (self.family, self.row) = (self.family + 1, 0);
        }
        true
    }
}

impl Iterator for Exposition {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while self.ready.len() < CHUNK && self.write() {}
        // A piece may end within a line, even within a character.
        let rest = self.ready.split_off(self.ready.len().min(CHUNK));
        let piece = std::mem::replace(&mut self.ready, rest);
        (!piece.is_empty()).then_some(piece)
    }
}
