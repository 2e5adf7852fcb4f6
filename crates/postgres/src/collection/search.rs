//! Searches in the vectors of one version. None changes anything.

use std::{collections::HashMap, time::Instant};

use onnxd_proto::search::{
    Distance, FUSED_RANKS, FromIndex, HITS_MAX, Hit, IndexErrorKind, Query, Source, fuse,
};
use pgvector::Vector;
use tokio_postgres::Row;

use super::{Collection, EXACT_MAX, Locking, Version};
use crate::{
    failure::Failure,
    filter::{self, Prepared, Values, words},
    pool::Connection,
};

/// Neighbours that a search considers. More make it better and slower.
const NEIGHBOURS_MIN: usize = 100;
/// The most that pgvector allows.
const NEIGHBOURS_MAX: usize = 1000;
/// Documents that a search visits in the graph before it compares all that a filter leaves.
const VISITED_MAX: usize = 2000;

/// Finds the documents nearest to a vector of the query's version.
///
/// # Errors
/// The collection lacks vectors of that version, or the database failed.
pub(crate) async fn search(
    name: &str,
    query: &Query,
    vector: &[f32],
    connection: &mut Connection,
) -> Result<FromIndex, Failure> {
    let start = Instant::now();
    let collection = Collection::find(name, Locking::None, connection).await?;
    let vector = collection.comparable(vector.to_vec())?;
    let wanted = query.offset.saturating_add(query.limit);
    if wanted > HITS_MAX {
        let message = format!("at most {HITS_MAX} documents can be asked for, offset included");
        return Err(IndexErrorKind::Invalid.because(message).into());
    }
    let Some(version) = collection.complete(&query.version, connection).await? else {
        return Ok(FromIndex::Hits { hits: Vec::new(), source: Source::Exact, micros: 0 });
    };
    if vector.len() != version.dimension {
        return Err(version.wrong_dimension(vector.len()).into());
    }
    let filter = filter::prepare(&query.filter, &collection.source(), connection).await?;
    let search = Search { collection: &collection, version, filter, vector: vector.into() };
    let (mut found, source) = match &query.text {
        None => search.nearest(wanted, connection).await?,
        Some(text) => {
            let ranks = wanted.max(FUSED_RANKS);
            let (nearest, source) = search.nearest(ranks, connection).await?;
            let by_text = search.by_text(text, ranks, connection).await?;
            (fuse(&nearest, &by_text), source)
        }
    };
    let threshold = query.score_threshold.unwrap_or(f32::NEG_INFINITY);
    found.retain(|(_, score)| *score >= threshold);
    let page: Vec<(i64, f32)> = found.into_iter().skip(query.offset).take(query.limit).collect();
    let keys: Vec<i64> = page.iter().map(|(key, _)| *key).collect();
    let mut documents: HashMap<i64, Hit> = collection
        .documents("d.key = ANY($1::bigint[])", &mut Values::of(keys), &query.shown, connection)
        .await?
        .into_iter()
        .collect();
    let hit = |(key, score)| documents.remove(&key).map(|hit| Hit { score, ..hit });
    let hits = page.into_iter().filter_map(hit).collect();
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(FromIndex::Hits { hits, source, micros })
}

impl Collection {
    /// Returns the version, whose vectors every document must have, unless other programs add
    /// documents: these are found when they are embedded. `None` if there are no documents.
    async fn complete(
        &self,
        version: &str,
        connection: &mut Connection,
    ) -> Result<Option<&Version>, Failure> {
        let known = self.version(version);
        let documents = match (known, &self.existing) {
            (Some(known), Some(_)) => return Ok(Some(known)),
            (None, Some(_)) => self.counts(connection).await?.0.cast_signed(),
            (_, None) => self.documents,
        };
        let present = known.map_or(0, |known| known.documents);
        match known {
            _ if documents == 0 => Ok(None),
            Some(known) if present == documents => Ok(Some(known)),
            _ => {
                let message = format!(
                    "collection {} has vectors of version {version} for {present} of {documents} documents; vectors of another version are never compared",
                    self.name
                );
                Err(IndexErrorKind::Version.because(message).into())
            }
        }
    }
}

/// A search in the vectors of one version.
struct Search<'s> {
    collection: &'s Collection,
    version: &'s Version,
    filter: Prepared<'s>,
    vector: Vector,
}

impl Search<'_> {
    /// Returns the keys and scores of the nearest documents, best first.
    async fn nearest(
        &self,
        limit: usize,
        connection: &mut Connection,
    ) -> Result<(Vec<(i64, f32)>, Source), Failure> {
        if self.version.has_graph
            && let Some(indexed) = self.version.indexed("x.vector")
            && !self.leaves_few(connection).await?
        {
            let found = self.by_graph(limit, &indexed, connection).await?;
            if found.len() == limit {
                return Ok((found, Source::Graph));
            }
            // A filter leaves few documents, or none of the near ones.
            connection.batch("SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on").await?;
        }
        Ok((self.by_scan(limit, connection).await?, Source::Exact))
    }

    /// Returns whether an index says that the filter leaves few documents.
    async fn leaves_few(&self, connection: &mut Connection) -> Result<bool, Failure> {
        let mut values = Values::default();
        // Payloads of existing tables have no index.
        let is_own = self.collection.existing.is_none();
        let Some(condition) = self.filter.indexed(&mut values).filter(|_| is_own) else {
            return Ok(false);
        };
        let table = self.collection.documents_table();
        let query = format!(
            "SELECT count(*) FROM (SELECT FROM {table} d WHERE {condition} LIMIT {EXACT_MAX} + 1) n"
        );
        let count: i64 = connection.query(&query, &values.all()).await?[0].get(0);
        Ok(count <= EXACT_MAX)
    }

    async fn by_graph(
        &self,
        limit: usize,
        indexed: &str,
        connection: &mut Connection,
    ) -> Result<Vec<(i64, f32)>, Failure> {
        let operator = match self.collection.settings.distance {
            Distance::Cosine => "<=>",
            Distance::Dot => "<#>",
        };
        // In half precision, the order of near ones is uncertain.
        let is_halved = indexed != "x.vector";
        let candidates = if is_halved { limit * 2 + 10 } else { limit };
        let neighbours = (candidates * 2).clamp(NEIGHBOURS_MIN, NEIGHBOURS_MAX);
        // The planner knows neither how many documents a filter leaves nor what comparing costs.
        let settings = format!(
            "SET LOCAL hnsw.ef_search = {neighbours};
            SET LOCAL hnsw.max_scan_tuples = {VISITED_MAX};
            SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off"
        );
        connection.batch(&settings).await?;
        let mut values = Values::of(self.vector.clone());
        let query = self.version.indexed("$1::vector").unwrap_or_default();
        let relation = self.relation(&mut values);
        let statement = format!(
            "WITH nearest AS MATERIALIZED (
                SELECT x.key, x.vector <#> $1::vector AS distance FROM {relation}
                ORDER BY {indexed} {operator} {query} LIMIT {candidates}
            )
            SELECT key, -distance FROM nearest ORDER BY distance, key LIMIT {limit}"
        );
        Ok(scores(&connection.query(&statement, &values.all()).await?))
    }

    /// Compares every vector.
    async fn by_scan(
        &self,
        limit: usize,
        connection: &mut Connection,
    ) -> Result<Vec<(i64, f32)>, Failure> {
        let mut values = Values::of(self.vector.clone());
        let relation = self.relation(&mut values);
        // The addition keeps the planner from following a graph.
        let statement = format!(
            "SELECT x.key, -(x.vector <#> $1::vector) FROM {relation}
            ORDER BY (x.vector <#> $1::vector) + 0.0, x.key LIMIT {limit}"
        );
        Ok(scores(&connection.query(&statement, &values.all()).await?))
    }

    /// Returns the vectors of the documents that satisfy the filter, for a FROM clause.
    fn relation(&self, values: &mut Values) -> String {
        let vectors = self.version.table();
        if self.filter.is_empty() && self.collection.existing.is_none() {
            return format!("{vectors} x");
        }
        let condition = self.filter.to_sql(values);
        let source = match self.filter.is_empty() {
            true => self.collection.documents_table(),
            false => self.collection.source(),
        };
        format!(
            "{vectors} x JOIN {source} d ON d.key = x.key AND d.edition = x.edition WHERE {condition}"
        )
    }

    /// Returns the keys of documents that contain any of the words, best first.
    async fn by_text(
        &self,
        text: &str,
        limit: usize,
        connection: &mut Connection,
    ) -> Result<Vec<i64>, Failure> {
        let words: Vec<String> = words(text).collect();
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let mut values = Values::of(words.join(" "));
        let condition = self.filter.to_sql(&mut values);
        let (source, vectors) = (self.collection.source(), self.version.table());
        // Words without quotes contain no operator. A document must have a vector, too.
        let query = format!(
            "SELECT d.key FROM {source} d,
                replace(plainto_tsquery('simple', $1::text)::text, '&', '|') AS joined,
                CAST(joined AS tsquery) AS q
            WHERE d.words @@ q AND {condition} AND EXISTS (
                SELECT FROM {vectors} x WHERE x.key = d.key AND x.edition = d.edition)
            ORDER BY ts_rank_cd(d.words, q, 1) DESC, d.key LIMIT {limit}"
        );
        let rows = connection.query(&query, &values.all()).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

fn scores(rows: &[Row]) -> Vec<(i64, f32)> {
    #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
    let score = |row: &Row| (row.get(0), row.get::<_, f64>(1) as f32);
    rows.iter().map(score).collect()
}
