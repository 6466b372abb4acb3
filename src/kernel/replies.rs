//! The door by which fuzzing reaches every reader of what the kernel answers.
//!
//! Readers stay private to their files, and no kernel has to be made to say something odd. Each part lists its own
//! in `READERS`; the seeds in fuzz/seeds/replies and inputs found since name a reader by its place, so places are
//! only ever added, at the end.

use super::{condition, conntrack, generic, ipvs, link, nft, socket, wireguard};

/// Each reads one body, and tells nobody what it found.
pub(super) type Readers = &'static [fn(&[u8])];

const PARTS: [Readers; 11] = {
    let [table, elements, balances, others] = nft::READERS;
    [
        socket::READERS,
        generic::READERS,
        ipvs::READERS,
        table,
        elements,
        others,
        link::READERS,
        conntrack::READERS,
        wireguard::READERS,
        balances,
        condition::READERS,
    ]
};

/// Has a body read: by the reader of `kind`, whose upper half is the part and whose lower half the place in it. There
/// is nothing to be told: all that a reader may not do is panic.
pub fn read(kind: u8, body: &[u8]) {
    let readers = PARTS.get(usize::from(kind >> 4));
    if let Some(reader) = readers.and_then(|readers| readers.get(usize::from(kind & 0xf))) {
        reader(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_has_a_kind() {
        assert!(PARTS.len() <= 16 && PARTS.iter().all(|readers| (1..=16).contains(&readers.len())));
        (0..=u8::MAX).for_each(|kind| [&[][..], &[0; 64], &[0xff; 64]].into_iter().for_each(|body| read(kind, body)));
    }
}
