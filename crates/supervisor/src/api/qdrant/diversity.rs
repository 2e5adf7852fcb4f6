//! Maximal marginal relevance: of the nearest points, those that are also unlike one another. Pure.

use onnxd_proto::search::Hit;

/// How points are chosen among the nearest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Diversity {
    /// 0 chooses the nearest, 1 those that are most unlike the ones chosen already.
    pub diversity: f32,
    /// How many of the nearest points are considered.
    pub candidates: usize,
}

impl Diversity {
    /// Chooses points one after another. All must have their vectors, the best first.
    pub(super) fn choose(self, mut hits: Vec<Hit>, count: usize) -> Vec<Hit> {
        let mut chosen: Vec<Hit> = Vec::new();
        // The similarity of each candidate to the one that is chosen and most like it.
        let mut likeness = vec![0.0_f32; hits.len()];
        while chosen.len() < count && !hits.is_empty() {
            let value = |at: &usize| {
                (1.0 - self.diversity) * hits[*at].score - self.diversity * likeness[*at]
            };
            // The first of equals is the nearest.
            let best = (0..hits.len())
                .reduce(|best, at| if value(&at) > value(&best) { at } else { best })
                .unwrap_or(0);
            let hit = hits.remove(best);
            likeness.remove(best);
            for (other, likeness) in hits.iter().zip(&mut likeness) {
                let similarity = product(&hit, other);
                *likeness = if chosen.is_empty() { similarity } else { likeness.max(similarity) };
            }
            chosen.push(hit);
        }
        chosen
    }
}

fn product(one: &Hit, other: &Hit) -> f32 {
    let pairs = one.vector.iter().flatten().zip(other.vector.iter().flatten());
    pairs.map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use onnxd_proto::search::DocumentId;

    use super::*;

    #[test]
    fn diverse_points_are_unlike_one_another() {
        let hit = |(id, score, vector): (u64, f32, [f32; 2])| Hit {
            id: DocumentId::Number(id),
            score,
            text: None,
            payload: None,
            vector: Some(vector.to_vec()),
        };
        let hits: Vec<Hit> =
            [(1, 0.9, [1.0, 0.0]), (2, 0.89, [1.0, 0.0]), (3, 0.5, [0.0, 1.0])].map(hit).into();
        let ids = |diversity: f32, count| -> Vec<DocumentId> {
            let chosen = Diversity { diversity, candidates: 3 }.choose(hits.clone(), count);
            chosen.into_iter().map(|hit| hit.id).collect()
        };
        let numbers = |ids: &[u64]| ids.iter().copied().map(DocumentId::Number).collect::<Vec<_>>();
        assert_eq!(ids(0.0, 3), numbers(&[1, 2, 3]));
        assert_eq!(ids(0.5, 3), numbers(&[1, 3, 2]));
        assert_eq!(ids(0.5, 1), numbers(&[1]));
        assert_eq!(ids(1.0, 9), numbers(&[1, 3, 2]));
    }
}
