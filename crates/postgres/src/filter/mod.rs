//! Translates filters to SQL over `jsonb`, such that they mean what they mean to the embedded index.
//! Words are Unicode's, which PostgreSQL knows only by its locale: documents that may contain them
//! are read, and their words are compared here.

mod path;

use onnxd_proto::search::{Condition, DocumentId, Filter, Range, Scalar};
use serde_json::Value;
use tokio_postgres::types::ToSql;

use self::path::Path;
use crate::{failure::Failure, pool::Connection};

/// Values of a condition for which an index is asked.
const INDEXED_MAX: usize = 32;

/// Values of a statement, which name them `$1`, `$2` and so on.
#[derive(Default)]
pub(crate) struct Values(Vec<Box<dyn ToSql + Sync>>);

impl Values {
    /// Returns one value, `$1`.
    pub(crate) fn of(value: impl ToSql + Sync + 'static) -> Self {
        Self(vec![Box::new(value)])
    }

    /// Adds a value and returns its name.
    pub(crate) fn add(&mut self, value: impl ToSql + Sync + 'static) -> String {
        self.0.push(Box::new(value));
        format!("${}", self.0.len())
    }

    /// Returns the values in the form that statements take.
    pub(crate) fn all(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.0.iter().map(|value| &**value).collect()
    }
}

/// A filter and the documents that satisfy its conditions on words, in their order.
pub(crate) struct Prepared<'f> {
    filter: &'f Filter,
    matching: Vec<Vec<i64>>,
}

/// Prepares a filter on the documents of `source`, which is what follows `FROM`.
///
/// # Errors
/// The database failed.
pub(crate) async fn prepare<'f>(
    filter: &'f Filter,
    source: &str,
    connection: &mut Connection,
) -> Result<Prepared<'f>, Failure> {
    let mut conditions = Vec::new();
    collect(filter, &mut conditions);
    let mut matching = Vec::with_capacity(conditions.len());
    for (key, text) in conditions {
        matching.push(with_words(&Path::new(key), text, source, connection).await?);
    }
    Ok(Prepared { filter, matching })
}

impl Prepared<'_> {
    /// Returns a condition on document `d`, which is never null.
    pub(crate) fn to_sql(&self, values: &mut Values) -> String {
        let mut matching = self.matching.iter();
        let exact = Translation { values, matching: &mut matching }.filter(self.filter);
        match self.indexed(values) {
            Some(indexed) => format!("({indexed} AND {exact})"),
            None => exact,
        }
    }

    /// Returns a condition that an index answers, and that every document which satisfies the filter
    /// satisfies, too. `None` if the filter has no such part.
    pub(crate) fn indexed(&self, values: &mut Values) -> Option<String> {
        let parts = self.filter.must.iter().filter_map(|condition| match condition {
            Condition::Any(key, scalars) if (1..=INDEXED_MAX).contains(&scalars.len()) => {
                let path = Path::new(key);
                let like = json(scalars).into_iter().flat_map(|scalar| path.examples(&scalar));
                let like = like
                    .map(|example| format!("d.payload @> {}::text::jsonb", values.add(example)));
                Some(format!("({})", like.collect::<Vec<_>>().join(" OR ")))
            }
            Condition::HasId(ids) => Some(has_id(ids, values)),
            _ => None,
        });
        let parts: Vec<String> = parts.collect();
        (!parts.is_empty()).then(|| format!("({})", parts.join(" AND ")))
    }

    /// Returns whether every document satisfies it.
    pub(crate) fn is_empty(&self) -> bool {
        self.filter.is_empty()
    }
}

/// Collects conditions on words in the order in which they are translated.
fn collect<'f>(filter: &'f Filter, found: &mut Vec<(&'f str, &'f str)>) {
    let min_should = filter.min_should.iter().flat_map(|(conditions, _)| conditions);
    let all = filter.must.iter().chain(&filter.should).chain(&filter.must_not).chain(min_should);
    for condition in all {
        match condition {
            Condition::Text(key, text) => found.push((key, text)),
            Condition::Nested(filter) => collect(filter, found),
            _ => {}
        }
    }
}

/// Returns the documents in whose field every word of a text occurs.
async fn with_words(
    path: &Path,
    text: &str,
    source: &str,
    connection: &mut Connection,
) -> Result<Vec<i64>, Failure> {
    let wanted: Vec<String> = words(text).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut values = Values::default();
    let elements = path.values(&mut values);
    let mut conditions =
        vec![format!("EXISTS (SELECT {elements} WHERE jsonb_typeof(v) = 'string')")];
    for word in &wanted {
        if let Some(part) = certain_part(word) {
            let pattern = values.add(format!("%{part}%"));
            conditions
                .push(format!("EXISTS (SELECT {elements} WHERE v #>> '{{}}' ILIKE {pattern})"));
        }
    }
    let conditions = conditions.join(" AND ");
    let query = format!(
        "SELECT d.key, (SELECT jsonb_agg(v) {elements} WHERE jsonb_typeof(v) = 'string')::text
        FROM {source} d WHERE {conditions}"
    );
    let rows = connection.query(&query, &values.all()).await?;
    let matches = |texts: &str| {
        let texts: Vec<String> = serde_json::from_str(texts).unwrap_or_default();
        let found: Vec<String> = texts.iter().flat_map(|text| words(text)).collect();
        wanted.iter().all(|word| found.contains(word))
    };
    let matching = rows.iter().filter(|row| matches(row.get(1)));
    Ok(matching.map(|row| row.get(0)).collect())
}

/// Returns the words of a text in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// Returns a part of a word that any text with that word contains, whatever the database's locale
/// says about case: ASCII without `i` and `k`, which other characters have as lower case.
fn certain_part(word: &str) -> Option<&str> {
    let is_certain =
        |character: char| character.is_ascii_alphanumeric() && !matches!(character, 'i' | 'k');
    let part = word.split(|character| !is_certain(character)).max_by_key(|part| part.len());
    part.filter(|part| !part.is_empty())
}

struct Translation<'t, 'm> {
    values: &'t mut Values,
    /// Documents that satisfy the next conditions on words.
    matching: &'t mut std::slice::Iter<'m, Vec<i64>>,
}

impl Translation<'_, '_> {
    fn filter(&mut self, filter: &Filter) -> String {
        let mut parts = self.conditions(&filter.must);
        if !filter.should.is_empty() {
            parts.push(format!("({})", self.conditions(&filter.should).join(" OR ")));
        }
        let excluded = self.conditions(&filter.must_not);
        parts.extend(excluded.into_iter().map(|condition| format!("NOT {condition}")));
        if let Some((conditions, at_least)) = &filter.min_should {
            let counts = self.conditions(conditions).into_iter();
            let counts: Vec<String> = counts.map(|one| format!("{one}::integer")).collect();
            let sum = if counts.is_empty() { "0".to_owned() } else { counts.join(" + ") };
            // More than there are conditions is never reached.
            parts.push(format!("({sum} >= {})", (*at_least).min(conditions.len() + 1)));
        }
        match parts.is_empty() {
            true => "true".to_owned(),
            false => format!("({})", parts.join(" AND ")),
        }
    }

    fn conditions(&mut self, conditions: &[Condition]) -> Vec<String> {
        conditions.iter().map(|condition| self.condition(condition)).collect()
    }

    /// Returns a condition in parentheses.
    fn condition(&mut self, condition: &Condition) -> String {
        match condition {
            Condition::Any(key, scalars) => {
                let list = self.values.add(json(scalars));
                let is_one =
                    |v: &str| format!("({v} = ANY({list}::text[]::jsonb[]) AND {})", is_scalar(v));
                Path::new(key).any(self.values, is_one)
            }
            Condition::Except(key, scalars) => {
                let list = self.values.add(json(scalars));
                let is_none =
                    |v: &str| format!("({} AND {v} <> ALL({list}::text[]::jsonb[]))", is_scalar(v));
                Path::new(key).any(self.values, is_none)
            }
            Condition::Range(key, range) => {
                let bounds = self.bounds(range);
                Path::new(key).any(self.values, |v| is_within(v, &bounds))
            }
            Condition::Text(..) => {
                let keys = self.matching.next().cloned().unwrap_or_default();
                format!("(d.key = ANY({}::bigint[]))", self.values.add(keys))
            }
            Condition::IsEmpty(key) => {
                let is_filled = |v: &str| format!("jsonb_typeof({v}) <> 'null'");
                format!("(NOT {})", Path::new(key).any(self.values, is_filled))
            }
            Condition::IsNull(key) => {
                Path::new(key).any(self.values, |v| format!("jsonb_typeof({v}) = 'null'"))
            }
            Condition::HasId(ids) => has_id(ids, self.values),
            Condition::Nested(filter) => format!("({})", self.filter(filter)),
        }
    }

    /// Adds the bounds of a range, and returns what a number is compared with.
    fn bounds(&mut self, range: &Range) -> Vec<String> {
        let Range { gt, gte, lt, lte } = *range;
        let bounds = [(">", gt), (">=", gte), ("<", lt), ("<=", lte)];
        let bounds = bounds.into_iter().filter_map(|(operator, bound)| Some((operator, bound?)));
        bounds
            .map(|(operator, bound)| format!("{operator} {}::float8", self.values.add(bound)))
            .collect()
    }
}

fn has_id(ids: &[DocumentId], values: &mut Values) -> String {
    let ids: Vec<Vec<u8>> = ids.iter().map(DocumentId::to_bytes).collect();
    format!("(d.id = ANY({}::bytea[]))", values.add(ids))
}

/// Returns the condition that a value can be compared for equality: a number only if it is a 64-bit
/// integer. In `jsonb`, 1 equals 1.0. The order of evaluation is certain only in CASE.
fn is_scalar(v: &str) -> String {
    format!(
        "CASE jsonb_typeof({v}) WHEN 'string' THEN true WHEN 'boolean' THEN true
        WHEN 'number' THEN CASE WHEN {v} #>> '{{}}' ~ '^-?[0-9]+$' THEN ({v} #>> '{{}}')::numeric
            BETWEEN -9223372036854775808 AND 9223372036854775807 ELSE false END
        ELSE false END"
    )
}

/// Returns the condition that a value is a number within bounds. Decimals beyond a double's range are
/// possible in tables of others.
fn is_within(v: &str, bounds: &[String]) -> String {
    let number = format!(
        "(CASE WHEN abs({v}::numeric) BETWEEN 1e-307 AND 1e308 THEN {v}::float8
        WHEN abs({v}::numeric) < 1 THEN 0
        ELSE sign({v}::numeric)::float8 * 'Infinity'::float8 END)"
    );
    let bounds: Vec<String> = bounds.iter().map(|bound| format!("{number} {bound}")).collect();
    let bounds = if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") };
    format!("CASE WHEN jsonb_typeof({v}) = 'number' THEN {bounds} ELSE false END")
}

/// Returns values as JSON.
fn json(scalars: &[Scalar]) -> Vec<String> {
    let json = |scalar: &Scalar| match scalar {
        Scalar::Bool(value) => Value::from(*value).to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::Text(text) => Value::from(text.as_str()).to_string(),
    };
    scalars.iter().map(json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certain_parts_are_in_every_spelling() {
        for (word, part) in
            [("fox", Some("fox")), ("kiki", None), ("banking", Some("ban")), ("über", Some("ber"))]
        {
            assert_eq!(certain_part(word), part, "{word}");
        }
        // Why `i` and `k` are uncertain.
        assert_eq!(words("\u{212a}\u{130}").collect::<Vec<_>>(), ["ki\u{307}"]);
    }

    #[test]
    fn no_value_is_part_of_the_statement() {
        let text = "x'; DROP TABLE documents; --";
        let any = Condition::Any(text.to_owned(), vec![Scalar::Text(text.to_owned())]);
        let filter = Filter { must: vec![any], ..Filter::default() };
        let mut values = Values::default();
        let sql = Prepared { filter: &filter, matching: Vec::new() }.to_sql(&mut values);
        assert!(!sql.contains("DROP"), "{sql}");
        assert_eq!(values.all().len(), 4, "the field, its values, and two examples for the index");
    }
}
