//! Reads when a certificate expires: one field of the operator's own X.509 file, for `GET /metrics`. rustls has
//! validated the rest, and exposes no field.

/// Tags of DER elements.
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// Tag of the optional version, which comes first.
const VERSION: u8 = 0xa0;
/// UTC times have years of two digits, of which 50 means 1950 (RFC 5280, 4.1.2.5.1).
const FIRST_UTC_YEAR: i64 = 1950;

/// Returns when a certificate in DER expires, in seconds since the Unix epoch. `None` if it does not say, or if
/// that was before the epoch.
pub(crate) fn expires(certificate: &[u8]) -> Option<u64> {
    let mut outer = Der(Der(certificate).expect(SEQUENCE)?);
    let mut body = Der(outer.expect(SEQUENCE)?);
    if body.0.first() == Some(&VERSION) {
        body.expect(VERSION)?;
    }
    body.expect(INTEGER)?;
    // The algorithm and the issuer.
    body.expect(SEQUENCE)?;
    body.expect(SEQUENCE)?;
    let mut validity = Der(body.expect(SEQUENCE)?);
    validity.next()?;
    let (tag, time) = validity.next()?;
    seconds(tag, str::from_utf8(time).ok()?)
}

/// The elements that are not read yet.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Returns the tag and the content of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => rest.split_first().map(|(&one, rest)| (usize::from(one), rest))?,
            0x82 => {
                let (&two, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(two)), rest)
            }
            // No part of a certificate before its validity is longer than 64 KiB.
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// Returns the content of the next element, which has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

/// Parses `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn seconds(tag: u8, time: &str) -> Option<u64> {
    let digits = time.strip_suffix('Z').filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()))?;
    let year_digits = match tag {
        UTC_TIME => 2,
        GENERALIZED_TIME => 4,
        _ => return None,
    };
    let (year, rest) = digits.split_at_checked(year_digits).filter(|(_, rest)| rest.len() == 10)?;
    let year: i64 = year.parse().ok()?;
    let year = if tag == UTC_TIME { FIRST_UTC_YEAR + (year + 50) % 100 } else { year };
    let part = |index: usize| rest[2 * index..2 * index + 2].parse::<i64>().ok();
    let (month, day) = (part(0).filter(|month| (1..=12).contains(month))?, part(1)?);
    let seconds = (part(2)? * 60 + part(3)?) * 60 + part(4)?;
    u64::try_from(days(year, month, day) * 86_400 + seconds).ok()
}

/// Returns the days from the Unix epoch to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the day that may be missing is the last one.
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_end_of_a_real_certificate_is_found() {
        // The second is a UTC time, the third a generalized time.
        for (year, month, day, expected) in [
            (1999, 12, 31, 946_598_400),
            (2049, 12, 31, 2_524_521_600),
            (2050, 3, 1, 2_529_705_600),
        ] {
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, month, day);
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(expires(certificate.der()), Some(expected), "{year}");
            assert_eq!(params.not_after.unix_timestamp(), i64::try_from(expected).unwrap());
        }
    }

    #[test]
    fn times_outside_the_format_are_refused() {
        assert_eq!(seconds(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(seconds(GENERALIZED_TIME, "20000229000000Z"), Some(951_782_400));
        for (tag, time) in [
            (UTC_TIME, "691231235959Z"),
            (UTC_TIME, "7001010000Z"),
            (UTC_TIME, "700101000000+0100"),
            (UTC_TIME, "701301000000Z"),
            (GENERALIZED_TIME, "20000229000000.5Z"),
            (INTEGER, "700101000001Z"),
        ] {
            assert_eq!(seconds(tag, time), None, "{time}");
        }
    }

    #[test]
    fn a_truncated_certificate_has_no_end() {
        let certificate =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert;
        let der = certificate.der();
        assert!(expires(der).is_some());
        for length in 0..der.len() {
            assert_eq!(expires(&der[..length]), None, "{length}");
        }
    }
}
