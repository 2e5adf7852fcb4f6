//! A strict parser for `/metrics`: anything that a scraper could misread is an error.

use std::collections::{BTreeMap, BTreeSet};

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// A complete text in the classic format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    /// Metric families by name.
    pub families: BTreeMap<String, Family>,
}

/// All series of one metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Family {
    /// The help text.
    pub help: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// By sample name and labels.
    pub samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Parses a text.
    ///
    /// # Errors
    /// Describes the invalid line.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("the last line has no newline".into());
        }
        let mut this = Self::default();
        let mut lines = text.lines();
        let mut present = None;
        while let Some(line) = lines.next() {
            let invalid = |why: &str| format!("{why}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| invalid("missing help"))?;
                let next = lines.next().and_then(|next| next.strip_prefix("# TYPE "));
                let kind = next.and_then(|next| next.strip_prefix(name)?.strip_prefix(' '));
                let kind = kind.ok_or_else(|| invalid("missing type"))?;
                let family =
                    Family { help: help.into(), kind: kind.into(), samples: BTreeMap::new() };
                if !is_name(name) || this.families.insert(name.into(), family).is_some() {
                    return Err(invalid("invalid or duplicate family name"));
                }
                present = Some(name.to_owned());
                continue;
            }
            let (sample, labels, value) = sample(line).map_err(|why| invalid(&why))?;
            let name = present.as_ref().ok_or_else(|| invalid("sample before any family"))?;
            let family = this.families.get_mut(name).ok_or_else(|| invalid("unknown family"))?;
            if !family.has(name, &sample) {
                return Err(invalid(&format!("not a sample of the {} {name}", family.kind)));
            }
            if family.kind != "gauge" && (value.is_nan() || value < 0.0) {
                return Err(invalid("only a gauge can be negative"));
            }
            if family.samples.insert((sample, labels), value).is_some() {
                return Err(invalid("duplicate series"));
            }
        }
        for (name, family) in &this.families {
            family.check(name).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(this)
    }

    /// Returns a family.
    ///
    /// # Panics
    /// Panics if there is no such family.
    pub fn family(&self, name: &str) -> &Family {
        self.families.get(name).unwrap_or_else(|| panic!("no family {name}"))
    }

    /// Returns the value of the sample with exactly these labels.
    ///
    /// # Panics
    /// Panics if there is no such sample.
    pub fn value(&self, sample: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Labels = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let key = (sample.to_owned(), wanted);
        let found = self.families.values().find_map(|family| family.samples.get(&key));
        *found.unwrap_or_else(|| panic!("no sample {sample} with {labels:?}"))
    }

    /// Returns all values of a label in a sample's series.
    pub fn label(&self, sample: &str, label: &str) -> BTreeSet<String> {
        let all = self.families.values().flat_map(|family| family.samples.keys());
        let matching = all.filter(|(name, _)| name == sample);
        matching.filter_map(|(_, labels)| labels.get(label).cloned()).collect()
    }
}

impl Family {
    /// Returns the names of the labels of its series.
    pub fn labels(&self) -> BTreeSet<&str> {
        let names = self.samples.keys().flat_map(|(_, labels)| labels.keys());
        names.map(String::as_str).filter(|name| *name != "le").collect()
    }

    /// Returns whether a sample of this name belongs to the family called `name`.
    fn has(&self, name: &str, sample: &str) -> bool {
        match self.kind.as_str() {
            "counter" => sample == name && name.ends_with("_total"),
            "gauge" => sample == name,
            "histogram" => sample
                .strip_prefix(name)
                .is_some_and(|suffix| ["_sum", "_count", "_bucket"].contains(&suffix)),
            _ => false,
        }
    }

    fn check(&self, name: &str) -> Result<(), String> {
        if self.samples.is_empty() {
            return Err("no samples".into());
        }
        let with_le = |(_, labels): &&(String, Labels)| labels.contains_key("le");
        if self.kind != "histogram" {
            return match self.samples.keys().find(with_le) {
                Some(_) => Err("only a bucket may have a bound".into()),
                None => Ok(()),
            };
        }
        let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for ((sample, labels), count) in &self.samples {
            let mut labels = labels.clone();
            let bound = labels.remove("le");
            if bound.is_some() != sample.ends_with("_bucket") {
                return Err(format!(
                    "{sample} {labels:?}: a bucket without a bound, or a bound without a bucket"
                ));
            }
            let buckets = buckets.entry(labels).or_default();
            if let Some(bound) = bound {
                buckets.push((number(&bound).ok_or("a bound is not a number")?, *count));
            }
        }
        for (labels, mut buckets) in buckets {
            buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            if !buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1) {
                return Err(format!("the buckets of {labels:?} are not cumulative: {buckets:?}"));
            }
            let value = |suffix| self.samples.get(&(format!("{name}{suffix}"), labels.clone()));
            let all = buckets.last().filter(|(bound, _)| bound.is_infinite());
            if all.is_none()
                || all.map(|(_, count)| count) != value("_count")
                || value("_sum").is_none()
            {
                return Err(format!(
                    "{labels:?}: the count differs from the last bucket, or the sum is missing"
                ));
            }
        }
        Ok(())
    }
}

/// Parses a line into name, labels and value.
fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("not a sample")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err("invalid sample name".into());
    }
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label has no value")?;
            let (value, after) = quoted(after)?;
            if !is_name(label) || labels.insert(label.into(), value).is_some() {
                return Err(format!("invalid or duplicate label {label}"));
            }
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = after.strip_prefix('}').ok_or("unterminated labels")?;
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').and_then(number).ok_or("missing value")?;
    Ok((name.into(), labels, value))
}

/// Parses the rest of a quoted string. Returns it and the text that follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[index + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => return Err("unknown escape".into()),
            },
            other => value.push(other),
        }
    }
    Err("unterminated value".into())
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

fn is_name(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let other = |byte: u8| first(byte) || byte.is_ascii_digit();
    name.bytes().next().is_some_and(first) && name.bytes().all(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total Of a\n# TYPE a_total counter\na_total{b=\"x,\\\"}\"} 1\n\
        # HELP h Of h\n# TYPE h histogram\nh_sum 2.5\nh_count 3\n\
        h_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 3\n";

    #[test]
    fn a_valid_exposition_is_parsed() {
        let text = Exposition::parse(GOOD).unwrap();
        assert!((text.value("a_total", &[("b", "x,\"}")]) - 1.0).abs() < 1e-9);
        assert!((text.value("h_count", &[]) - 3.0).abs() < 1e-9);
        assert_eq!(text.family("a_total").labels(), BTreeSet::from(["b"]));
    }

    #[test]
    fn every_malformed_exposition_is_refused() {
        for (from, to, what) in [
            ("a_total{b=\"x,\\\"}\"} 1\n", "", "a family without a sample"),
            ("# TYPE a_total counter\n", "", "missing type"),
            ("# HELP a_total Of a\n", "", "missing help"),
            ("a_total", "a", "a counter without its suffix"),
            ("} 1\n# H", "} -1\n# H", "a counter below 0"),
            ("} 1\n# H", "} one\n# H", "not a number"),
            ("h_count 3\n", "h_count 3\nh_count 3\n", "a duplicate series"),
            ("h_count 3", "h_count 4", "a count that differs from the buckets"),
            ("h_sum 2.5\n", "", "missing sum"),
            ("le=\"+Inf\"} 3", "le=\"2.0\"} 3", "missing last bucket"),
            ("le=\"1.0\"} 1", "le=\"1.0\"} 4", "buckets that decrease"),
            ("h_bucket{le=\"1.0\"}", "h_bucket", "a bucket without a bound"),
            ("h_sum 2.5", "g_sum 2.5", "a sample of another family"),
            ("\\\"", "\\q", "an unknown escape"),
            ("h Of h\n# TYPE h", "a_total Of h\n# TYPE a_total", "a duplicate family"),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD, "{what}");
            assert!(Exposition::parse(&bad).is_err(), "{what}:\n{bad}");
        }
        assert!(Exposition::parse(GOOD.trim_end()).is_err(), "a last line without a newline");
    }
}
