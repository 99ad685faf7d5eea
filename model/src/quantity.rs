//! Kubernetes quantities: `500m`, `1.5Gi`, `1e3`.

/// The amount in billionths. The text has digits with an optional fraction, and then a decimal suffix, a binary suffix
/// or an exponent. None if it is not a quantity, or larger than any real amount (1e18, or more digits than fit into the
/// number).
pub fn billionths(text: &str) -> Option<i128> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let whole = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse::<i128>().ok()?;
    let (base, power): (i128, i32) = match suffix {
        "" => (10, 0),
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        "Pi" => (1024, 5),
        "Ei" => (1024, 6),
        exponent => (10, exponent.strip_prefix(['e', 'E'])?.parse().ok().filter(|power: &i32| power.abs() <= 18)?),
    };
    let ten = |power: u32| 10_i128.checked_pow(power);
    let fraction_digits = i32::try_from(fraction.len()).ok()?;
    let billionths = if base == 10 {
        let power = power + 9 - fraction_digits;
        match u32::try_from(power) {
            Ok(power) => digits.checked_mul(ten(power)?)?,
            Err(_) => digits / ten(power.unsigned_abs())?,
        }
    } else {
        let scaled = digits.checked_mul(base.checked_pow(power.unsigned_abs())?)?.checked_mul(1_000_000_000)?;
        scaled / ten(fraction_digits.unsigned_abs())?
    };
    Some(if negative { -billionths } else { billionths })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, expected) in [
            ("1", Some(1_000_000_000)),
            ("1000m", Some(1_000_000_000)),
            ("0.1", Some(100_000_000)),
            ("100m", Some(100_000_000)),
            (".5", Some(500_000_000)),
            ("1e3", Some(1_000_000_000_000)),
            ("1E3", Some(1_000_000_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000_000_000)),
            ("1Ki", Some(1_024_000_000_000)),
            ("1.5Gi", Some(1_610_612_736_000_000_000)),
            ("1536Mi", Some(1_610_612_736_000_000_000)),
            ("1n", Some(1)),
            ("-1", Some(-1_000_000_000)),
            ("", None),
            ("Gi", None),
            ("1gi", None),
            ("1e99", None),
            ("99999999999999999999999999999999999999999", None),
            ("9999999999999999999999999999999999999Ei", None),
            ("1.2.3", None),
            ("+-1", None),
            ("-", None),
            ("1.-2", None),
            ("+1", Some(1_000_000_000)),
        ] {
            assert_eq!(billionths(text), expected, "{text:?}");
        }
    }
}
