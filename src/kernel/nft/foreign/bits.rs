//! Bytes of which not every bit is known, and what can be said of them.

/// Whether something holds of a packet that is not known in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    Yes,
    No,
    Maybe,
}

impl Truth {
    pub fn of(known: bool) -> Truth {
        if known { Truth::Yes } else { Truth::No }
    }

    pub fn and(self, other: Truth) -> Truth {
        match (self, other) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Yes, Truth::Yes) => Truth::Yes,
            _ => Truth::Maybe,
        }
    }

    pub fn inverted(self, invert: bool) -> Truth {
        match self {
            Truth::Yes if invert => Truth::No,
            Truth::No if invert => Truth::Yes,
            other => other,
        }
    }
}

/// A byte, and which of its bits are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Byte {
    value: u8,
    known: u8,
}

impl Byte {
    /// Nothing of it is known.
    pub const ANY: Byte = Byte { value: 0, known: 0 };

    pub const fn known(value: u8) -> Byte {
        Byte { value, known: 0xff }
    }

    /// Only the bits of `known` are.
    pub fn partly(value: u8, known: u8) -> Byte {
        Byte { value: value & known, known }
    }

    /// As nft's bitwise has it: those bits are kept, then those are turned.
    pub fn masked(self, mask: u8, turned: u8) -> Byte {
        Byte { value: (self.value & mask) ^ turned, known: self.known | !mask }.settled()
    }

    fn settled(self) -> Byte {
        Byte { value: self.value & self.known, ..self }
    }

    fn may_be(self, other: u8) -> bool {
        (self.value ^ other) & self.known == 0
    }
}

pub fn known(bytes: &[u8]) -> Vec<Byte> {
    bytes.iter().copied().map(Byte::known).collect()
}

/// The bytes, if all of them are known.
pub fn settled(bytes: &[Byte]) -> Option<Vec<u8>> {
    bytes.iter().map(|byte| (byte.known == 0xff).then_some(byte.value)).collect()
}

/// Whether they are those; of the longer one only the beginning counts.
pub fn equal(bytes: &[Byte], other: &[u8]) -> Truth {
    if bytes.len() < other.len() {
        return Truth::Maybe;
    }
    let mut pairs = bytes.iter().zip(other);
    if pairs.clone().any(|(byte, other)| !byte.may_be(*other)) {
        return Truth::No;
    }
    if pairs.all(|(byte, _)| byte.known == 0xff) { Truth::Yes } else { Truth::Maybe }
}

/// Whether they lie between two others, both included, as numbers whose first byte weighs most.
pub fn within(bytes: &[Byte], first: &[u8], last: &[u8]) -> Truth {
    if bytes.len() < first.len() || first.len() != last.len() {
        return Truth::Maybe;
    }
    let bytes = &bytes[..first.len()];
    // The least and the greatest that they may be.
    let least: Vec<u8> = bytes.iter().map(|byte| byte.value).collect();
    let greatest: Vec<u8> = bytes.iter().map(|byte| byte.value | !byte.known).collect();
    if *greatest < *first || *least > *last {
        Truth::No
    } else if *least >= *first && *greatest <= *last {
        Truth::Yes
    } else {
        Truth::Maybe
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is said of some bits holds whatever the others are.
        #[test]
        fn nothing_is_said_that_may_be_wrong(
            value in any::<[u8; 3]>(), known in any::<[u8; 3]>(),
            mask in any::<u8>(), turned in any::<u8>(), other in any::<[u8; 3]>(), last in any::<[u8; 3]>(),
        ) {
            let partly: Vec<Byte> = value.iter().zip(known).map(|(value, known)| Byte::partly(*value, known)).collect();
            let masked: Vec<Byte> = partly.iter().map(|byte| byte.masked(mask, turned)).collect();
            let truly: Vec<u8> = value.iter().map(|value| (value & mask) ^ turned).collect();
            let holds = |truth: Truth, really: bool| truth == Truth::Maybe || truth == Truth::of(really);
            prop_assert!(holds(equal(&masked, &other), truly == other));
            prop_assert!(holds(equal(&masked, &truly), true));
            prop_assert!(holds(within(&masked, &other, &last), *truly >= other[..] && *truly <= last[..]));
            let settled = settled(&masked);
            prop_assert!(settled.is_none() || settled == Some(truly.clone()));
            if known == [0xff; 3] {
                prop_assert_eq!(settled, Some(truly));
            }
        }
    }

    #[test]
    fn a_part_that_differs_is_enough() {
        let bytes = [Byte::known(1), Byte::ANY];
        assert_eq!(equal(&bytes, &[2, 0]), Truth::No);
        assert_eq!(equal(&bytes, &[1, 0]), Truth::Maybe);
        assert_eq!(equal(&bytes, &[1]), Truth::Yes);
        assert_eq!(within(&bytes, &[1, 0], &[1, 255]), Truth::Yes);
        assert_eq!(Truth::Maybe.and(Truth::No), Truth::No);
        assert_eq!(Truth::Maybe.inverted(true), Truth::Maybe);
    }
}
