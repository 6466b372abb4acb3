//! How much goes somewhere.

use std::ops::Add;

use crate::meshctl::top::number::short;
use crate::meshctl::top::rates::Rate;

/// Each second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    pub connections: f64,
    /// In and out; `None`: nobody counts them.
    pub bytes: Option<(f64, f64)>,
}

/// Of those that are known.
pub fn sum(flows: impl Iterator<Item = Option<Flow>>) -> Option<Flow> {
    flows.flatten().reduce(Flow::add)
}

/// Nothing of what is not known.
pub fn words(flow: Option<Flow>) -> impl Iterator<Item = String> {
    flow.into_iter().flat_map(|flow| flow.words())
}

impl Flow {
    /// nftables counts connections alone.
    pub fn new(rate: &Rate, dataplane: &str) -> Flow {
        let bytes = (dataplane != "nftables").then_some((rate.bytes_in, rate.bytes_out));
        Flow { connections: rate.connections, bytes }
    }

    /// `12.5 conn/s`, `120k B/s in`, `3.4M B/s out`
    pub fn words(&self) -> Vec<String> {
        let connections = format!("{} conn/s", short(self.connections));
        let bytes =
            self.bytes.map(|(into, out)| [format!("{} B/s in", short(into)), format!("{} B/s out", short(out))]);
        [connections].into_iter().chain(bytes.into_iter().flatten()).collect()
    }
}

impl Add for Flow {
    type Output = Flow;

    fn add(self, other: Flow) -> Flow {
        let bytes = self.bytes.zip(other.bytes).map(|(one, two)| (one.0 + two.0, one.1 + two.1));
        Flow { connections: self.connections + other.connections, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flow, sum};

    #[test]
    fn what_is_not_known_is_not_added() {
        let flow = |connections, bytes| Some(Flow { connections, bytes });
        assert_eq!(sum([None, None].into_iter()), None);
        let known = [flow(1.0, Some((2.0, 3.0))), None, flow(1.5, Some((1.0, 1.0)))];
        assert_eq!(sum(known.into_iter()), flow(2.5, Some((3.0, 4.0))));
        let words = sum(known.into_iter()).map(|flow| flow.words().join(", "));
        assert_eq!(words.as_deref(), Some("2.5 conn/s, 3 B/s in, 4 B/s out"));
        let uncounted = sum([flow(1.0, None), flow(1.0, Some((2.0, 3.0)))].into_iter());
        assert_eq!(uncounted.map(|flow| flow.words()), Some(vec!["2 conn/s".to_owned()]));
    }
}
