use proptest::prelude::*;

use super::*;

const ID: u16 = 0x1234;

fn ask(name: &str, record: DnsRecord) -> Result<Vec<u8>, String> {
    question(&DnsProbe { name: name.to_owned(), record }, ID)
}

/// A question for example.org's address, as an answer with those flags and that many records, each 10.0.0.1.
fn answer(flags: u16, records: u16) -> Vec<u8> {
    let mut out = ask("example.org", DnsRecord::A).unwrap();
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&records.to_be_bytes());
    for _ in 0..records {
        // The name is the question's.
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
    }
    out
}

fn error(text: &str) -> Option<Result<(), String>> {
    Some(Err(text.to_owned()))
}

#[test]
fn a_question_is_as_the_rfc_has_it() {
    let expected = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x1c\x00\x01";
    assert_eq!(ask("example.org", DnsRecord::Aaaa).unwrap(), expected);
    assert_eq!(ask("example.org.", DnsRecord::Aaaa).unwrap(), expected);
    assert_eq!(ask(".", DnsRecord::Ns).unwrap()[HEADER..], [0, 0, 2, 0, 1]);
    assert_eq!(ask("_sip._tcp.a", DnsRecord::Soa).unwrap()[HEADER..], *b"\x04_sip\x04_tcp\x01a\0\0\x06\0\x01");
    assert_eq!(ask("a", DnsRecord::Txt).unwrap()[HEADER..], *b"\x01a\0\0\x10\0\x01");
}

#[test]
fn a_name_that_cannot_be_encoded_is_refused() {
    let check = |name: &str, why: &str| {
        assert_eq!(ask(name, DnsRecord::A), Err(format!("name {name:?}: {why}")));
    };
    check("", "empty");
    check("..", "an empty label");
    check("a..b", "an empty label");
    check(".a", "an empty label");
    check("a b", "a character that is no printable ASCII");
    check("bücher.example", "a character that is no printable ASCII");
    check(&"a".repeat(64), "a label longer than 63");
    check(&"a".repeat(300), "a label longer than 63");
    check(&"a.".repeat(128), "longer than 255");
    assert!(ask(&"a.".repeat(127), DnsRecord::A).is_ok());
}

#[test]
fn an_answer_needs_a_record_and_no_error() {
    assert_eq!(verdict(&answer(QR, 1), ID), Some(Ok(())));
    assert_eq!(verdict(&answer(QR | RD, 3), ID), Some(Ok(())));
    assert_eq!(verdict(&answer(QR | TC, 0), ID), Some(Ok(())));
    assert_eq!(verdict(&answer(QR, 0), ID), error("answer without records"));
    assert_eq!(verdict(&answer(QR | 3, 0), ID), error("answer NXDOMAIN"));
    assert_eq!(verdict(&answer(QR | TC | 2, 1), ID), error("answer SERVFAIL"));
    assert_eq!(verdict(&answer(QR | 11, 1), ID), error("answer with error 11"));
}

#[test]
fn what_is_no_answer_to_the_question_is_passed_over() {
    assert_eq!(verdict(&answer(QR, 1), ID + 1), None);
    assert_eq!(verdict(&answer(0, 1), ID), None);
    assert_eq!(verdict(b"", ID), None);
    assert_eq!(verdict(b"\x12", ID), None);
}

#[test]
fn an_answer_that_is_torn_is_found_wherever_it_is() {
    let whole = answer(QR, 1);
    for length in 2..whole.len() {
        assert_eq!(verdict(&whole[..length], ID), error("answer is torn"), "{length}");
    }
}

proptest! {
    #[test]
    fn no_datagram_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = verdict(&bytes, ID);
    }

    #[test]
    fn nor_one_that_begins_well(flags: u16, counts: [u16; 2], rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = Vec::new();
        [ID, flags | QR, counts[0], counts[1]].iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        bytes.extend(rest);
        // Whatever it is, it is the answer.
        prop_assert!(verdict(&bytes, ID).is_some());
    }

    #[test]
    fn what_is_encoded_reads_back(labels in prop::collection::vec("[!-\\-/-~]{1,63}", 1..4), dot: bool) {
        let mut text = labels.join(".");
        if dot {
            text.push('.');
        }
        let encoded = encoded(&text).unwrap();
        let mut rest = encoded.as_slice();
        let mut read = Vec::new();
        loop {
            let length = bytes(&mut rest, 1).unwrap()[0];
            if length == 0 {
                break;
            }
            read.push(String::from_utf8(bytes(&mut rest, length.into()).unwrap().to_vec()).unwrap());
        }
        prop_assert_eq!(read, labels);
        prop_assert!(rest.is_empty());
        let mut rest = encoded.as_slice();
        prop_assert_eq!(name(&mut rest), Some(()));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_name_is_encoded_in_bounds_or_refused(text in "\\PC{0,300}") {
        if let Ok(encoded) = encoded(&text) {
            prop_assert!(encoded.len() <= LONGEST_NAME);
            prop_assert_eq!(encoded.last(), Some(&0));
        }
    }
}
