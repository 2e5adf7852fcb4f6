//! Builds requests and expected answers from an `expected.json`. `tests/models/README.md` documents
//! its fields.

use serde_json::{Value, json};

use super::{
    Case, Directory, Limit, Reading, Rows,
    answer::{entity, rows},
};

/// Returns the test cases of a directory's `expected.json`. `limit` applies to vectors.
///
/// # Panics
/// Panics if the file's task is unknown.
pub fn cases(directory: &Directory, limit: Limit) -> Vec<Case> {
    let expected = &directory.expected;
    let has_prompts = directory.path.join("config_sentence_transformers.json").exists();
    let has_modules = directory.path.join("modules.json").exists();
    let builder = CaseBuilder { expected, limit, has_prompts, has_modules };
    match expected["task"].as_str() {
        Some("embedding") if expected.get("embeddings_by_task").is_some() => builder.by_task(),
        Some("embedding") => builder.embedding(),
        Some("classification") => builder.classification(),
        Some("rerank") => builder.rerank(),
        Some("sparse") => builder.sparse(),
        Some("token_embeddings") => builder.token_embeddings(),
        Some("token-classification") => builder.entities(),
        Some("zero-shot") => builder.zero_shot(),
        task => panic!("{}: unknown task {task:?}", directory.name),
    }
}

/// Parses a list of texts.
///
/// # Panics
/// Panics if it is anything else.
pub fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:.200}"))
}

/// Parses a list of lists of numbers.
///
/// # Panics
/// Panics if it is anything else.
pub fn numbers(value: &Value) -> Rows {
    rows(value).unwrap_or_else(|| panic!("not rows of numbers: {value:.200}"))
}

/// Normalizes a vector to length 1.
pub fn unit(row: &[f32]) -> Vec<f32> {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    row.iter().map(|x| if length > 0.0 { x / length } else { 0.0 }).collect()
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

struct CaseBuilder<'e> {
    expected: &'e Value,
    limit: Limit,
    /// If false, the prompts are only on the model card, and clients prepend them.
    has_prompts: bool,
    has_modules: bool,
}

impl CaseBuilder<'_> {
    fn case(
        &self,
        what: &str,
        (path, body): (&'static str, Value),
        reading: Reading,
        reference: Rows,
    ) -> Case {
        let limit = self.limit;
        Case { what: what.to_owned(), path, body, reading, reference, limit }
    }

    fn score(
        &self,
        what: &str,
        request: (&'static str, Value),
        reading: Reading,
        reference: Rows,
    ) -> Case {
        let mut case = self.case(what, request, reading, reference);
        case.limit.cosine = Limit::SCORES.cosine;
        case
    }

    /// Returns a body for which `/embed` matches `encode()`. The route normalizes unless told not
    /// to, and `normalize: false` skips a Normalize module.
    fn embed(&self, inputs: Value) -> Value {
        let mut body = json!({"inputs": inputs});
        if self.expected["normalized"] == false {
            body["normalize"] = false.into();
        }
        body
    }

    fn embedding(&self) -> Vec<Case> {
        let expected = self.expected;
        let texts = texts(&expected["texts"]);
        let alone = numbers(&expected["embeddings_alone"]);
        let units: Rows = alone.iter().map(|row| unit(row)).collect();
        let mut cases: Vec<Case> = texts
            .iter()
            .zip(&alone)
            .map(|(text, reference)| {
                let body = self.embed(json!(text));
                self.case(
                    "a single text",
                    ("/embed", body),
                    Reading::Vectors,
                    vec![reference.clone()],
                )
            })
            .collect();
        let raw = self.embed(json!(texts));
        cases.push(self.case("one batch", ("/embed", raw), Reading::Vectors, alone.clone()));
        let plain = json!({"inputs": texts});
        cases.push(self.case("normalized", ("/embed", plain), Reading::Vectors, units));
        // Without modules.json, no file states whether the vectors have length 1.
        if self.has_modules || expected["normalized"] == true {
            let open = json!({"input": texts});
            cases.push(self.case("OpenAI", ("/v1/embeddings", open), Reading::OpenAi, alone));
        }
        cases.extend(self.prompts(&texts));
        for (size, reference) in expected["truncate_dim"].as_object().into_iter().flatten() {
            let size: u32 = size.parse().expect("a number of components");
            let body = json!({"inputs": texts, "dimensions": size});
            let what = format!("{size} dimensions");
            let reference = numbers(reference).iter().map(|row| unit(row)).collect();
            cases.push(self.case(&what, ("/embed", body), Reading::Vectors, reference));
        }
        cases
    }

    fn prompts(&self, texts: &[String]) -> Vec<Case> {
        let mut cases = Vec::new();
        for (name, reference) in
            self.expected["embeddings_by_prompt"].as_object().into_iter().flatten()
        {
            let reference = numbers(reference);
            if !self.has_prompts {
                let prompt = self.expected["prompts"][name].as_str().expect("a prompt");
                let texts: Vec<String> =
                    texts.iter().map(|text| format!("{prompt}{text}")).collect();
                let body = self.embed(json!(texts));
                let what = format!("text of prompt {name}");
                cases.push(self.case(&what, ("/embed", body), Reading::Vectors, reference));
                continue;
            }
            let mut body = self.embed(json!(texts));
            body["prompt_name"] = name.as_str().into();
            let what = format!("prompt {name}");
            cases.push(self.case(&what, ("/embed", body), Reading::Vectors, reference.clone()));
            let mut body = self.embed(json!(texts[0]));
            body["prompt_name"] = name.as_str().into();
            let first = vec![reference[0].clone()];
            cases.push(self.case(&what, ("/embed", body), Reading::Vectors, first));
            if matches!(name.as_str(), "query" | "document") {
                let body = json!({"texts": texts, "input_type": format!("search_{name}"),
                    "embedding_types": ["float"]});
                let what = format!("input_type search_{name}");
                cases.push(self.case(&what, ("/v2/embed", body), Reading::Cohere, reference));
            }
        }
        cases
    }

    /// Returns the cases of a model that needs the task of each text.
    fn by_task(&self) -> Vec<Case> {
        let texts = texts(&self.expected["texts"]);
        let mut cases = Vec::new();
        for (task, reference) in
            self.expected["embeddings_by_task"].as_object().into_iter().flatten()
        {
            let reference = numbers(reference);
            let what = format!("task {task}");
            let body = json!({"inputs": texts, "prompt_name": task,
                "switches": {"task_id": task}});
            cases.push(self.case(&what, ("/embed", body), Reading::Vectors, reference.clone()));
            let number = &self.expected["task_ids"][task];
            let body =
                json!({"inputs": texts[0], "prompt_name": task, "switches": {"task_id": number}});
            cases.push(self.case(
                &what,
                ("/embed", body),
                Reading::Vectors,
                vec![reference[0].clone()],
            ));
            let body = json!({"input": texts, "task": task});
            cases.push(self.case(&what, ("/v1/embeddings", body), Reading::OpenAi, reference));
        }
        cases
    }

    fn classification(&self) -> Vec<Case> {
        let texts = texts(&self.expected["texts"]);
        let labels = Reading::Labels(self::texts(&self.expected["labels"]));
        let (scores, logits) =
            (numbers(&self.expected["scores"]), numbers(&self.expected["logits"]));
        let lists: Vec<[&String; 1]> = texts.iter().map(|text| [text]).collect();
        let mut cases: Vec<Case> = texts
            .iter()
            .zip(&scores)
            .map(|(text, reference)| {
                let body = json!({"inputs": text});
                self.score(
                    "a single text",
                    ("/predict", body),
                    labels.clone(),
                    vec![reference.clone()],
                )
            })
            .collect();
        let body = json!({"inputs": lists});
        cases.push(self.score("one batch", ("/predict", body), labels.clone(), scores));
        let body = json!({"inputs": lists, "raw_scores": true});
        cases.push(self.score("raw scores", ("/predict", body), labels, logits));
        cases
    }

    /// Returns the score of each pair before any activation.
    fn raw_ranks(&self) -> Vec<f32> {
        let logits = self.expected.get("log_odds").unwrap_or(&self.expected["logits"]);
        match rows(logits) {
            Some(labels) => labels.iter().map(|two| two[1] - two[0]).collect(),
            None => numbers(&json!([logits])).remove(0),
        }
    }

    fn rerank(&self) -> Vec<Case> {
        let pairs: Vec<[String; 2]> =
            serde_json::from_value(self.expected["pairs"].clone()).expect("pairs");
        let raw = self.raw_ranks();
        let mut cases = Vec::new();
        let rerank_cases = |what: &str, query: &str, texts: &[&str], raw: &[f32]| {
            let body = json!({"query": query, "texts": texts, "raw_scores": true});
            let reference = raw.iter().map(|&raw| vec![raw]).collect();
            let logits =
                self.score(&format!("{what}, raw"), ("/rerank", body), Reading::Ranks, reference);
            let body = json!({"query": query, "texts": texts});
            let reference = raw.iter().map(|&raw| vec![sigmoid(raw)]).collect();
            [logits, self.score(what, ("/rerank", body), Reading::Ranks, reference)]
        };
        for ([query, text], &raw) in pairs.iter().zip(&raw) {
            cases.extend(rerank_cases("a single pair", query, &[text], &[raw]));
        }
        let mut queries: Vec<&String> = pairs.iter().map(|[query, _]| query).collect();
        queries.dedup();
        for query in queries {
            let of_query = || pairs.iter().zip(&raw).filter(|([other, _], _)| other == query);
            let texts: Vec<&str> = of_query().map(|([_, text], _)| text.as_str()).collect();
            let raw: Vec<f32> = of_query().map(|(_, &raw)| raw).collect();
            cases.extend(rerank_cases("the texts of a query", query, &texts, &raw));
        }
        cases
    }

    fn sparse(&self) -> Vec<Case> {
        let texts = texts(&self.expected["texts"]);
        let size = self.expected["dimensions"].as_u64().and_then(|size| usize::try_from(size).ok());
        let size = size.expect("a number of components");
        let dense = |entries: &Value| {
            let mut row = vec![0.0; size];
            let indices: Vec<usize> =
                serde_json::from_value(entries["indices"].clone()).expect("indices");
            let values = &numbers(&json!([entries["values"]]))[0];
            for (index, value) in indices.into_iter().zip(values) {
                row[index] = *value;
            }
            row
        };
        let all =
            |list: &Value| -> Rows { list.as_array().expect("a list").iter().map(dense).collect() };
        let reference = all(&self.expected["sparse"]);
        let reading = || Reading::Sparse(size);
        let one = |(text, reference): (&String, &Vec<f32>)| {
            let body = json!({"inputs": text});
            self.case("a single text", ("/embed_sparse", body), reading(), vec![reference.clone()])
        };
        let mut cases: Vec<Case> = texts.iter().zip(&reference).map(one).collect();
        let body = json!({"inputs": texts});
        cases.push(self.case("one batch", ("/embed_sparse", body), reading(), reference));
        for (name, reference) in self.expected["sparse_by_prompt"].as_object().into_iter().flatten()
        {
            let body = json!({"inputs": texts, "prompt_name": name});
            let what = format!("prompt {name}");
            cases.push(self.case(&what, ("/embed_sparse", body), reading(), all(reference)));
        }
        cases
    }

    fn token_embeddings(&self) -> Vec<Case> {
        let texts = texts(&self.expected["texts"]);
        let mut cases = Vec::new();
        for (role, reference) in self.expected["token_embeddings"].as_object().into_iter().flatten()
        {
            let reference: Vec<Rows> =
                reference.as_array().expect("a list").iter().map(numbers).collect();
            for (text, reference) in texts.iter().zip(&reference) {
                let body = json!({"inputs": text, "prompt_name": role});
                let what = format!("a single {role}");
                cases.push(self.case(
                    &what,
                    ("/embed_all", body),
                    Reading::Tokens,
                    reference.clone(),
                ));
            }
            let body = json!({"inputs": texts, "prompt_name": role});
            let all = reference.into_iter().flatten().collect();
            let what = format!("one batch of {role}");
            cases.push(self.case(&what, ("/embed_all", body), Reading::Tokens, all));
        }
        cases
    }

    fn entities(&self) -> Vec<Case> {
        let texts = texts(&self.expected["pipeline_texts"]);
        let words = |one: &Value| -> Vec<String> {
            one.as_array().expect("entities").iter().map(entity).collect()
        };
        let scores = |one: &Value| -> Vec<f32> {
            let score =
                |one: &Value| serde_json::from_value(one["score"].clone()).expect("a score");
            one.as_array().expect("entities").iter().map(score).collect()
        };
        let mut cases = Vec::new();
        for (strategy, reference) in self.expected["pipeline"].as_object().into_iter().flatten() {
            let reference = reference.as_array().expect("a list");
            let mut parameters = json!({"aggregation_strategy": strategy});
            if strategy == "none" {
                parameters["ignore_labels"] = json!([]);
            }
            let what = format!("aggregation {strategy}");
            for (text, reference) in texts.iter().zip(reference) {
                let reading = Reading::Entities(vec![words(reference)]);
                let body = json!({"inputs": text, "parameters": parameters});
                cases.push(self.score(&what, ("/", body), reading, vec![scores(reference)]));
            }
            let reading = Reading::Entities(reference.iter().map(words).collect());
            let body = json!({"inputs": texts, "parameters": parameters});
            cases.push(self.score(
                &what,
                ("/", body),
                reading,
                reference.iter().map(scores).collect(),
            ));
        }
        cases
    }

    fn zero_shot(&self) -> Vec<Case> {
        let texts = texts(&self.expected["texts"]);
        let labels = self::texts(&self.expected["candidate_labels"]);
        let reading = Reading::Candidates(labels.clone());
        let mut cases = Vec::new();
        for (multi_label, field) in [(false, "scores"), (true, "scores_multi_label")] {
            let reference = numbers(&self.expected[field]);
            let parameters = json!({"candidate_labels": labels, "multi_label": multi_label});
            let what = format!("multi_label {multi_label}");
            for (text, reference) in texts.iter().zip(&reference) {
                let body = json!({"inputs": text, "parameters": parameters});
                cases.push(self.score(
                    &what,
                    ("/", body),
                    reading.clone(),
                    vec![reference.clone()],
                ));
            }
        }
        let pairs = json!({"inputs": self.expected["nli_pairs"], "raw_scores": true});
        let reference = numbers(&self.expected["nli_logits"]);
        let reading = Reading::Labels(self::texts(&self.expected["labels"]));
        cases.push(self.score("pairs", ("/predict", pairs), reading, reference));
        cases
    }
}
