//! Adds documents. Some are also only embedded by the same clients, before or after that, to compare
//! the rates.

use serde_json::json;

use crate::{
    report::{Report, Table, fixed},
    search::{
        clients::{Exchanges, send_all},
        collection::Collection,
        documents::Document,
        exact::Vectors,
    },
    stats::to_f64,
};

/// Documents that are added at once.
pub(super) const TURN: usize = 1000;
/// Only the first of this many turns is compared with embedding.
const COMPARED: usize = 4;
/// Minimum rate of adding documents, relative to embedding their texts.
const RATE_MIN: f64 = 0.9;

/// The documents of a collection so far.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// Their number.
    documents: usize,
    /// Their embeddings.
    pub vectors: Vectors,
    /// Seconds of each turn, for adding and for only embedding.
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    documents: usize,
    added: f64,
    embedded: f64,
}

impl Filled {
    /// Adds all of these documents that are not there yet.
    pub(super) async fn add(
        &mut self,
        collection: &Collection,
        documents: &[Document],
        clients: usize,
    ) -> Result<(), String> {
        for some in documents[self.documents..].chunks(TURN) {
            let add = async || {
                send_all(&collection.adding(), &Collection::additions(some), clients).await
            };
            let embed = async || {
                send_all(&collection.embedding(), &collection.embeddings(some), clients).await
            };
            let seconds = |exchanges: &Exchanges| exchanges.elapsed.as_secs_f64();
            let turn = self.documents / TURN;
            self.documents += some.len();
            if !turn.is_multiple_of(COMPARED) {
                add().await?;
                continue;
            }
            let (added, embedded) = if (turn / COMPARED).is_multiple_of(2) {
                let embedded = seconds(&embed().await?);
                (seconds(&add().await?), embedded)
            } else {
                (seconds(&add().await?), seconds(&embed().await?))
            };
            self.turns.push(Turn { documents: some.len(), added, embedded });
        }
        let known = std::mem::take(&mut self.vectors);
        self.vectors = collection.vectors(known, documents.len()).await?;
        Ok(())
    }

    /// Compares adding with embedding.
    pub(super) fn report(&self, clients: usize, report: &mut Report) {
        let documents = to_f64(self.turns.iter().map(|turn| turn.documents as u64).sum());
        let added = documents / self.turns.iter().map(|turn| turn.added).sum::<f64>();
        let embedded = documents / self.turns.iter().map(|turn| turn.embedded).sum::<f64>();
        let mut ratios: Vec<f64> =
            self.turns.iter().map(|turn| turn.embedded / turn.added).collect();
        ratios.sort_by(f64::total_cmp);
        let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let mut table = Table::new(format!("{clients} clients, {documents} documents"));
        table.row("/embed", [("per second", fixed(embedded, 0))]);
        let range = format!("{least:.2} to {most:.2}");
        let cells = [("per second", fixed(added, 0)), ("of /embed", fixed(median, 2)), ("", range)];
        table.row("/documents", cells);
        table.print();
        report.at_least("adding documents, to embedding them", median, RATE_MIN, "x");
        let figures = json!({"added": added, "embedded": embedded, "ratios": ratios});
        report.figures("filling", figures);
    }
}
