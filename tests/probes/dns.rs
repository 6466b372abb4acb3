use meshd::mesh::{DnsProbe, DnsRecord, Probe};

use crate::{SHORT, ask, ask_for, failed, servers};

fn dns(name: &str) -> Probe {
    Probe::Dns(DnsProbe { name: name.to_owned(), record: DnsRecord::A })
}

/// The question turned into an answer with that in its flags, and 10.0.0.1 so often.
fn answer(question: &[u8], flags: u16, records: u16) -> Vec<u8> {
    let mut out = question.to_vec();
    out[2..4].copy_from_slice(&(0x8000 | flags).to_be_bytes());
    out[6..8].copy_from_slice(&records.to_be_bytes());
    for _ in 0..records {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
    }
    out
}

#[test]
fn an_answer_is_good_or_not() {
    let check = |flags, records, expected: Result<(), String>| {
        let server = servers::udp(move |question| vec![answer(question, flags, records)]);
        assert_eq!(ask(&dns("shop.example"), server), expected);
    };
    check(0, 1, Ok(()));
    check(0x180, 20, Ok(()));
    check(0x200, 0, Ok(()));
    check(0, 0, failed("answer without records"));
    check(2, 0, failed("answer SERVFAIL"));
    check(3, 0, failed("answer NXDOMAIN"));
    check(5, 0, failed("answer REFUSED"));
}

#[test]
fn the_question_is_one() {
    let server = servers::udp(|question| {
        assert_eq!(question[2..], *b"\x01\0\0\x01\0\0\0\0\0\0\x04shop\x07example\0\0\x01\0\x01");
        vec![answer(question, 0, 1)]
    });
    assert_eq!(ask(&dns("shop.example"), server), Ok(()));
}

#[test]
fn ids_are_not_the_same_each_time() {
    let (seen, ids) = std::sync::mpsc::channel();
    let server = servers::udp(move |question| {
        seen.send([question[0], question[1]]).unwrap();
        vec![answer(question, 0, 1)]
    });
    (0..8).for_each(|_| assert_eq!(ask(&dns("."), server), Ok(())));
    let ids: std::collections::BTreeSet<_> = ids.try_iter().collect();
    assert!(ids.len() > 4, "{ids:?}");
}

#[test]
fn answers_to_other_questions_are_passed_over() {
    let other = |question: &[u8]| {
        let mut other = answer(question, 3, 0);
        other[0] ^= 1;
        other
    };
    let server = servers::udp(move |question| vec![other(question), question.to_vec(), answer(question, 0, 1)]);
    assert_eq!(ask(&dns("shop.example"), server), Ok(()));
    let server = servers::udp(move |question| vec![other(question), vec![], vec![0]]);
    assert_eq!(ask_for(SHORT, &dns("shop.example"), server), failed("no answer in 400ms"));
}

#[test]
fn what_is_torn_or_does_not_come_is_told() {
    let torn = servers::udp(|question| vec![answer(question, 0, 1)[..question.len() + 9].to_vec()]);
    assert_eq!(ask(&dns("shop.example"), torn), failed("answer is torn"));
    let torn = servers::udp(|question| vec![answer(question, 0, 1)[..5].to_vec()]);
    assert_eq!(ask(&dns("shop.example"), torn), failed("answer is torn"));
    assert_eq!(ask_for(SHORT, &dns("a"), servers::udp(|_| Vec::new())), failed("no answer in 400ms"));
    let (_reserved, address) = servers::unreachable();
    assert_eq!(ask(&dns("a"), address), failed("port unreachable"));
}

#[test]
fn a_name_that_cannot_be_asked_for_is_told() {
    let silent = servers::udp(|_| Vec::new());
    assert_eq!(ask(&dns("a..b"), silent), failed("name \"a..b\": an empty label"));
}
