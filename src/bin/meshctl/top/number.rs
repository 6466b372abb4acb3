//! Numbers in few letters.

/// `0`, `0.3`, `12.5`, `999`, `1.2k`, `3.4M`: at most six letters up to 10^15.
pub fn short(number: f64) -> String {
    let mut scaled = number;
    let mut units = ["", "k", "M", "G", "T"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be shown as 1000 has the next unit.
    while scaled >= 999.5 {
        let Some(next) = units.next() else { break };
        unit = next;
        scaled /= 1000.0;
    }
    let digits = usize::from(scaled < 99.95 && !(unit.is_empty() && scaled.fract() == 0.0));
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::short;

    #[track_caller]
    fn check(number: f64, expected: &str) {
        assert_eq!(short(number), expected);
    }

    #[test]
    fn numbers_stay_short() {
        check(0.0, "0");
        check(0.25, "0.2");
        check(3.0, "3");
        check(12.5, "12.5");
        check(99.96, "100");
        check(999.4, "999");
        check(999.5, "1.0k");
        check(1234.0, "1.2k");
        check(125_000.0, "125k");
        check(999_999.0, "1.0M");
        check(3.4e9, "3.4G");
        check(7e15, "7000T");
    }
}
