//! The items of a group for a model for texts: tokenizes them, runs them in micro-batches, and
//! gives of what comes out what each asks for.

use std::time::{Duration, Instant};

use onnxd_proto::{
    domain::Task,
    generation::Generation,
    limits::FRAME_PAYLOAD_BYTES_MAX,
    wire::ask::{AnsweredItem, Ask, Content, Rejection, TextAsk, Want},
};
use zerocopy::IntoBytes;

use super::{
    microbatch,
    model::{Rows, TextModel},
    pooling,
    tokenize::Text,
};
use crate::{
    artifacts::costs::{Company, Costs},
    families::group::{Group, Took, broken, number},
    process::{cpu_time::CpuTime, fault::Fault},
    session::{SessionError, Tokens},
};

/// An item that has been tokenized.
struct Ready {
    item: u32,
    tokens: Tokens,
    want: Want,
}

/// Answers all items.
pub(super) fn answer(
    group: &mut Group<'_>,
    parts: &[&[u8]],
    generation: Generation,
    (model, costs): (&mut TextModel, &mut Costs),
) -> Result<(), Fault> {
    let (table, company) = (costs.table.clone(), costs.company);
    let mut answering = Answering { group, generation, model, costs };
    let started = Instant::now();
    let ready = answering.tokenize(parts)?;
    let tokenizing = started.elapsed();
    let of_tokens = |ready: &Ready| ready.want == Want::TokenEmbeddings;
    let (tokens, pooled): (Vec<Ready>, Vec<Ready>) = ready.into_iter().partition(of_tokens);
    // An embedding of each token is large: one text of them is enough for a frame.
    for (ready, rows, company) in
        [(pooled, Rows::Pooled, company), (tokens, Rows::Tokens, Company::Alone)]
    {
        let lengths: Vec<usize> = ready.iter().map(|item| item.tokens.ids.len()).collect();
        for places in microbatch::plan(&lengths, &table, company) {
            let batch: Vec<&Ready> = places.iter().map(|&place| &ready[place]).collect();
            answering.run(&batch, rows, tokenizing)?;
        }
    }
    Ok(())
}

struct Answering<'g, 's, 'm> {
    group: &'g mut Group<'s>,
    generation: Generation,
    model: &'m mut TextModel,
    costs: &'m mut Costs,
}

impl Answering<'_, '_, '_> {
    /// The items that have to be run. The others are answered.
    fn tokenize(&mut self, parts: &[&[u8]]) -> Result<Vec<Ready>, Fault> {
        let mut ready = Vec::with_capacity(parts.len());
        let asked = self.group.asked;
        for (place, (asked, part)) in asked.items.iter().zip(parts).enumerate() {
            let item = number(place);
            let outcome = match &asked.ask {
                Ask::Text { text, want } => {
                    let tokens = self.tokens(text, *want, part)?;
                    tokens.map(|tokens| ready.push(Ready { item, tokens, want: *want }))
                }
                Ask::Tokenize { prompt, special } => {
                    let text = utf8(part)?;
                    self.list(item, text, prompt.as_deref(), *special)?
                }
                Ask::Decode { skip_special } => {
                    match self.model.decode(&ids(part)?, *skip_special) {
                        Ok(text) if text.len() <= FRAME_PAYLOAD_BYTES_MAX => {
                            Ok(self.tell(item, text.as_bytes())?)
                        }
                        Ok(_) => Err(Rejection::Tokenizer("the text is too long".into())),
                        Err(rejection) => Err(rejection),
                    }
                }
                Ask::Tensors { .. } => Err(Rejection::WrongTask(self.task())),
            };
            if let Err(rejection) = outcome {
                self.group.reject(vec![item], rejection)?;
            }
        }
        Ok(ready)
    }

    fn task(&self) -> Task {
        self.model.settings().task
    }

    fn tokens(
        &self,
        asked: &TextAsk,
        want: Want,
        part: &[u8],
    ) -> Result<Result<Tokens, Rejection>, Fault> {
        let text = match asked.content {
            Content::Text => {
                let text = utf8(part)?;
                // Prompts are for what is embedded.
                match self.task() {
                    Task::Embed => self.model.prompted(text, asked.prompt.as_deref()),
                    _ => Ok(Text::One(text)),
                }
            }
            Content::Pair { first_bytes, .. } => {
                let length = usize::try_from(first_bytes).unwrap_or(usize::MAX);
                let pair = part.split_at_checked(length);
                let (first, second) =
                    pair.ok_or_else(|| broken("names a first text beyond its item"))?;
                Ok(Text::Pair(utf8(first)?, utf8(second)?))
            }
            Content::Ids if asked.prompt.is_some() => {
                Err(Rejection::Tokenizer("a prompt is for texts, not for token ids".into()))
            }
            Content::Ids => Ok(Text::Ids(ids(part)?)),
        };
        Ok(self.allow(want).and(text).and_then(|text| self.model.tokenize(&text, asked.truncate)))
    }

    /// Whether the model gives what is wanted.
    fn allow(&self, want: Want) -> Result<(), Rejection> {
        if !want.is_of(self.task()) {
            return Err(Rejection::WrongTask(self.task()));
        }
        match want {
            Want::TokenEmbeddings if self.model.is_pooled() => Err(Rejection::Inference(
                "the model pools by itself and gives no embeddings of tokens".into(),
            )),
            Want::Embedding { dimensions: Some(asked), .. } => {
                let max = number(self.model.dimension());
                match asked == 0 || asked > max {
                    true => Err(Rejection::Dimensions { asked, max }),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn list(
        &mut self,
        item: u32,
        text: &str,
        prompt: Option<&str>,
        special: bool,
    ) -> Result<Result<(), Rejection>, Fault> {
        let prompted = match self.task() {
            Task::Embed => self.model.prompted(text, prompt),
            _ => Ok(Text::One(text)),
        };
        let listed = prompted.and_then(|prompted| match &prompted {
            Text::Prompted(text) => self.model.list(text, special),
            _ => self.model.list(text, special),
        });
        Ok(match listed {
            Ok(tokens) => {
                let json = serde_json::to_vec(&tokens).expect("tokens are valid JSON");
                match json.len() <= FRAME_PAYLOAD_BYTES_MAX {
                    true => Ok(self.tell(item, &json)?),
                    false => Err(Rejection::Tokenizer("the list of tokens is too long".into())),
                }
            }
            Err(rejection) => Err(rejection),
        })
    }

    /// Answers an item for which nothing is run.
    fn tell(&mut self, item: u32, bytes: &[u8]) -> Result<(), Fault> {
        let answered =
            AnsweredItem { item, tokens: 0, bytes: number(bytes.len()), outputs: Vec::new() };
        self.group.send(self.generation, vec![answered], Took::default(), &[bytes])
    }

    fn run(&mut self, batch: &[&Ready], rows: Rows, tokenizing: Duration) -> Result<(), Fault> {
        let started = Instant::now();
        let tokens: Vec<&Tokens> = batch.iter().map(|item| &item.tokens).collect();
        let mut values = Vec::new();
        let (dimension, cpu) = match self.embed(&tokens, rows, &mut values) {
            Ok(embedded) => embedded,
            Err(error) => {
                let items = batch.iter().map(|item| item.item).collect();
                return self.group.reject(items, Rejection::Inference(error.to_string()));
            }
        };
        let (mut items, mut broken) = (Vec::with_capacity(batch.len()), Vec::new());
        // What is answered moves to the front of what came out; nothing is copied where all of
        // it is wanted.
        let (mut read, mut kept) = (0, 0);
        for ready in batch {
            let length = match rows {
                Rows::Pooled => dimension,
                Rows::Tokens => dimension * ready.tokens.ids.len(),
            };
            let given = finish(&mut values[read..read + length], ready.want, self.model);
            match given {
                Some(given) if given * size_of::<f32>() <= FRAME_PAYLOAD_BYTES_MAX => {
                    if kept != read {
                        values.copy_within(read..read + given, kept);
                    }
                    kept += given;
                    let tokens = number(ready.tokens.ids.len());
                    let bytes = number(given * size_of::<f32>());
                    let outputs = Vec::new();
                    items.push(AnsweredItem { item: ready.item, tokens, bytes, outputs });
                }
                given => broken.push((ready.item, given)),
            }
            read += length;
        }
        for (item, given) in broken {
            let said = match given {
                None => "what the model gives is not finite",
                Some(_) => "what the model gives is larger than an answer may be",
            };
            self.group.reject(vec![item], Rejection::Inference(said.into()))?;
        }
        if items.is_empty() {
            return Ok(());
        }
        let took = Took { tokenizing, inference: started.elapsed(), cpu };
        self.group.send(self.generation, items, took, &[values[..kept].as_bytes()])
    }

    /// The number of components, and the CPU time of this thread.
    fn embed(
        &mut self,
        tokens: &[&Tokens],
        rows: Rows,
        values: &mut Vec<f32>,
    ) -> Result<(usize, Duration), SessionError> {
        let begun = CpuTime::now();
        let wide =
            if self.group.asked.wide { self.model.embed_wide(tokens, rows, values) } else { None };
        if let Some(dimension) = wide {
            return Ok((dimension, begun.elapsed()));
        }
        let begun = CpuTime::now();
        let dimension = self.model.embed(tokens, rows, values)?;
        let took = begun.elapsed();
        // What such a run costs is learnt from each.
        let longest = tokens.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        self.costs.table.observe(tokens.len(), longest, took.as_secs_f32() * 1e6);
        Ok((dimension, took))
    }
}

/// Makes of what came out for an item what it wants, at its front; gives how many numbers that are.
/// `None`: they are not finite. JSON has no NaN, and a vector search that is given one finds nothing
/// ever after.
fn finish(values: &mut [f32], want: Want, model: &TextModel) -> Option<usize> {
    let mut given = values.len();
    if let Want::Embedding { normalize, dimensions } = want {
        given = dimensions.map_or(given, |asked| given.min(asked as usize));
        if normalize.unwrap_or(model.settings().normalize) {
            pooling::normalize(&mut values[..given]);
        }
    }
    values[..given].iter().all(|value| value.is_finite()).then_some(given)
}

fn utf8(part: &[u8]) -> Result<&str, Fault> {
    str::from_utf8(part).map_err(|_| broken("brings a text that is not UTF-8"))
}

fn ids(part: &[u8]) -> Result<Vec<u32>, Fault> {
    let (ids, rest) = part.as_chunks::<4>();
    match rest.is_empty() {
        true => Ok(ids.iter().map(|id| u32::from_le_bytes(*id)).collect()),
        false => Err(broken("brings a part of a token")),
    }
}
