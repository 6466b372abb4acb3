//! What the kernel answers, whatever it is: the first byte says who reads the rest.

use meshd::kernel::replies;

pub fn feed(input: &[u8]) {
    if let Some((kind, body)) = input.split_first() {
        replies::read(*kind, body);
    }
}
