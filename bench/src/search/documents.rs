//! Documents and queries generated from a seed: sentences about a few dozen topics, so that their
//! embeddings form clusters as those of real texts do. Pure.

use bytes::Bytes;
use e2e::random::Random;
use serde_json::json;

/// Topics with their things and what happens to them.
const TOPICS: [(&str, &str, &str); 30] = [
    (
        "astronomy",
        "telescope|comet|distant galaxy|red dwarf|solar eclipse|observatory",
        "was photographed|grew brighter|crossed the southern sky|was measured again",
    ),
    (
        "bakery",
        "sourdough loaf|rye bread|croissant|flour mill|oven|wedding cake",
        "was baked at dawn|won a prize|sold out|had to cool for hours",
    ),
    (
        "banking",
        "savings account|central bank|interest rate|mortgage|credit union|bond",
        "was raised by half a percent|lost customers|was audited|attracted investors",
    ),
    (
        "beekeeping",
        "beehive|queen bee|swarm|honeycomb|apiary|wax",
        "survived the cold|was moved to the orchard|produced more honey|was inspected",
    ),
    (
        "chess",
        "grandmaster|opening|rook endgame|tournament|chess clock|gambit",
        "surprised the champion|ended in a draw|was analysed by computers|lasted seven hours",
    ),
    (
        "climate",
        "heat wave|glacier|carbon tax|drought|sea level|weather station",
        "broke all records|retreated further|was debated in parliament|was monitored",
    ),
    (
        "cooking",
        "lentil soup|cast iron pan|tomato sauce|spice mix|roast chicken|recipe",
        "simmered all afternoon|was served with rice|burned|needed more salt",
    ),
    (
        "cycling",
        "mountain stage|carbon frame|peloton|bicycle lane|puncture|helmet",
        "was decided in the sprint|was repaired at the roadside|divided the riders|opened to the public",
    ),
    (
        "databases",
        "transaction log|query planner|index|replica|backup|lock",
        "was rebuilt overnight|fell behind|blocked every writer|was restored from disk",
    ),
    (
        "dentistry",
        "wisdom tooth|dental crown|root canal|gum disease|toothbrush|orthodontist",
        "was treated without pain|had to be removed|was examined twice|cost more than expected",
    ),
    (
        "elections",
        "ballot|coalition|candidate|polling station|referendum|constituency",
        "was counted by hand|won by a narrow margin|was postponed|lost its majority",
    ),
    (
        "fishing",
        "trawler|salmon|fishing quota|harbour|net|lighthouse",
        "returned empty|was cut by a third|was caught near the coast|was sold at auction",
    ),
    (
        "football",
        "goalkeeper|penalty|stadium|transfer|league title|referee",
        "was saved in extra time|was decided on goal difference|was criticised|drew a record crowd",
    ),
    (
        "forestry",
        "old oak|sawmill|bark beetle|forest fire|pine plantation|ranger",
        "was felled|spread with the wind|was replanted|closed for the season",
    ),
    (
        "gardening",
        "rose bush|compost heap|greenhouse|apple tree|lawn|tulip bulb",
        "was pruned in early spring|froze|blossomed twice|was watered every evening",
    ),
    (
        "geology",
        "volcano|fault line|limestone cave|earthquake|mineral vein|fossil",
        "was mapped in detail|erupted without warning|was dated|collapsed",
    ),
    (
        "insurance",
        "claim|deductible|flood policy|premium|adjuster|liability",
        "was rejected|doubled within a year|covered the damage|was settled out of court",
    ),
    (
        "law",
        "supreme court|contract|copyright|witness|appeal|verdict",
        "was overturned|was signed under pressure|contradicted the evidence|set a precedent",
    ),
    (
        "linguistics",
        "dialect|verb ending|loanword|grammar|alphabet|vowel",
        "disappeared from speech|was borrowed from the north|was first written down|shifted slowly",
    ),
    (
        "mathematics",
        "theorem|prime number|proof|conjecture|matrix|differential equation",
        "was generalised|turned out to be false|was checked by machine|took decades",
    ),
    (
        "medicine",
        "vaccine|blood pressure|clinical trial|antibiotic|surgeon|emergency room",
        "was tested on volunteers|was lowered by the drug|reached full capacity|failed to help",
    ),
    (
        "music",
        "string quartet|piano sonata|choir|drummer|opera|violin",
        "was performed for the first time|went on tour|was recorded live|was restored",
    ),
    (
        "navigation",
        "compass|sea chart|satellite signal|pilot boat|canal|sextant",
        "was off by two degrees|was lost in the fog|guided the convoy|was widened",
    ),
    (
        "painting",
        "watercolour|portrait|fresco|gallery|canvas|self-portrait",
        "was cleaned by restorers|was attributed to a pupil|was stolen|hung in the hall",
    ),
    (
        "physics",
        "electron|superconductor|neutrino|laser|magnetic field|particle detector",
        "behaved as predicted|lost all resistance|was trapped|was calibrated",
    ),
    (
        "railways",
        "night train|signal box|locomotive|railway bridge|timetable|platform",
        "was delayed by snow|was electrified|connected both cities|was closed for repairs",
    ),
    (
        "software",
        "compiler|memory leak|unit test|release|web server|scheduler",
        "was rewritten|crashed under load|was fixed in a patch|passed on every machine",
    ),
    (
        "taxation",
        "tax return|customs duty|audit|exemption|revenue office|inheritance tax",
        "was filed late|was abolished|was refunded|applied to small firms",
    ),
    (
        "tourism",
        "hostel|cruise ship|guided walk|beach resort|old town|visa",
        "was fully booked|attracted families|was renovated|became too expensive",
    ),
    (
        "wine",
        "vineyard|harvest|oak barrel|red grape|cellar|cork",
        "was ruined by hail|aged for a decade|was tasted blind|was bottled",
    ),
];
const QUALITIES: &str = "old|new|small|famous|unusual|local|expensive|cheap|damaged|modern|remote|popular|quiet|\
    forgotten|heavy|experimental|public|private|northern|well-known|simple|traditional|second|largest";
const PLACES: &str = "near Lisbon|in Helsinki|outside Kyoto|in the Andes|along the Danube|in northern Canada|in Cairo|\
    in a village in Wales|on the Baltic coast|in Nairobi|close to the border|in the capital|on a Greek island|\
    in Vietnam|in the old harbour|in the valley|in Buenos Aires|at the university|in New Zealand|in Bavaria";
const TIMES: &str = "last winter|in the spring|after the war|during the night|in the nineties|two weeks ago|\
    before the holidays|at the end of the century|every summer|on a Tuesday|within a single day|years later";
const PEOPLE: &str = "engineers|the committee|two students|the owner|a journalist|local residents|researchers|\
    the ministry|a retired teacher|volunteers|an apprentice|critics|the insurance company|visitors";
const REASONS: &str = "although nobody had expected it|because the budget was cut|as the report explains|\
    which surprised the experts|despite repeated warnings|and the costs were shared|so the plan was changed|\
    while the rest stayed the same|as soon as the weather allowed it|for reasons that are still unclear";

/// Returns one of the words between bars.
fn pick<'a>(words: &'a str, random: &mut Random) -> &'a str {
    let count = words.split('|').count();
    words.split('|').nth(random.below_len(count)).unwrap_or_default().trim_start()
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub id: usize,
    pub text: String,
    topic: &'static str,
    year: u64,
}

impl Document {
    /// Returns the document with this number.
    pub(super) fn new(seed: u64, id: usize) -> Self {
        // Neighbouring seeds yield unrelated sequences.
        let mut random = Random::new(Random::new(seed.wrapping_add(id as u64)).number());
        let (topic, things, events) = TOPICS[random.below_len(TOPICS.len())];
        let year = 1900 + random.below(126);
        let mut pick = |words| pick(words, &mut random);
        let (thing, other, event) = (pick(things), pick(things), pick(events));
        let (quality, place, time) = (pick(QUALITIES), pick(PLACES), pick(TIMES));
        let (people, reason) = (pick(PEOPLE), pick(REASONS));
        let text = match random.below(6) {
            0 => format!("The {quality} {thing} {event} {place} {time}."),
            1 => format!("In {year}, a {quality} {thing} {place} {event}, {reason}."),
            2 => format!("According to {people}, the {thing} {event} {time}, {reason}."),
            3 => format!("A {quality} {thing} and a {other} were found {place} by {people}."),
            4 => format!(
                "It was {people} who noticed {time} that the {quality} {thing} {place} {event}."
            ),
            _ => format!(
                "The {thing} {event} {place}. Since {year}, {people} prefer the {quality} {other}, {reason}."
            ),
        };
        Self { id, text, topic, year }
    }

    /// Returns the client's own fields.
    pub(super) fn payload(&self) -> serde_json::Value {
        json!({"topic": self.topic, "year": self.year})
    }

    /// Returns the document as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        json!({"id": self.id, "text": self.text, "payload": self.payload()})
    }
}

/// Returns this number of documents.
pub(super) fn documents(seed: u64, count: usize) -> Vec<Document> {
    (0..count).map(|id| Document::new(seed, id)).collect()
}

/// Returns this number of queries, which differ from all documents.
pub(super) fn queries(seed: u64, count: usize) -> Vec<String> {
    let mut random = Random::new(seed ^ 0x5eed_5eed_5eed_5eed);
    let mut query = || {
        let (topic, things, _) = TOPICS[random.below_len(TOPICS.len())];
        let which = random.below(4);
        let mut pick = |words| pick(words, &mut random);
        let (thing, quality, place, time) =
            (pick(things), pick(QUALITIES), pick(PLACES), pick(TIMES));
        match which {
            0 => format!("What happened to the {thing} {place}?"),
            1 => format!("{quality} {thing}"),
            2 => format!("news about {topic} {place} {time}"),
            _ => format!("Why was the {quality} {thing} in the papers {time}?"),
        }
    };
    (0..count).map(|_| query()).collect()
}

/// Returns documents as JSON lines.
pub(super) fn lines(documents: &[Document]) -> Bytes {
    documents.iter().map(|document| format!("{}\n", document.json())).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn documents_depend_only_on_seed_and_number() {
        assert_eq!(documents(1, 20)[..10], documents(1, 10));
        assert_ne!(documents(1, 10), documents(2, 10));
    }

    #[test]
    fn hardly_any_text_occurs_twice() {
        let documents = documents(1, 10_000);
        let distinct: BTreeSet<&str> = documents.iter().map(|one| one.text.as_str()).collect();
        assert!(distinct.len() > 9_900, "{}", distinct.len());
        let asked: BTreeSet<String> = queries(1, 500).into_iter().collect();
        assert!(asked.len() > 400, "{}", asked.len());
        assert!(asked.iter().all(|query| !distinct.contains(query.as_str())));
    }

    #[test]
    fn texts_have_the_length_of_sentences() {
        for document in documents(1, 1000) {
            let words = document.text.split(' ').count();
            assert!((6..=40).contains(&words), "{}", document.text);
        }
    }
}
