//! Tokenizes and decodes for clients that request tokens, rather than for the model.

use onnxd_proto::wire::ask::{Rejection, Token};

use crate::families::text::tokenize::{Tokenizer, failed};

impl Tokenizer {
    /// Returns all tokens of a text without truncation; `special` adds the model's special tokens.
    pub(crate) fn list(&self, text: &str, special: bool) -> Result<Vec<Token>, Rejection> {
        let tokenizer = &self.inner.tokenizer;
        let encoding = tokenizer.encode_char_offsets(text, special).map_err(failed)?;
        // The offset of each character and the end, to slice tokens in constant time.
        let mut starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
        starts.push(text.len());
        let mut listed = Vec::with_capacity(encoding.len());
        for (place, token) in encoding.get_tokens().iter().enumerate() {
            let id = encoding.get_ids()[place];
            let special = encoding.get_special_tokens_mask()[place] == 1;
            let (start, stop) = encoding.get_offsets()[place];
            let cut = starts.get(start).zip(starts.get(stop));
            let cut = cut.and_then(|(&start, &stop)| text.get(start..stop));
            let text = if special { token } else { cut.unwrap_or(token) }.to_owned();
            let place = |place| (!special).then_some(place);
            listed.push(Token { id, text, special, start: place(start), stop: place(stop) });
        }
        Ok(listed)
    }

    /// Returns the text of tokens.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Rejection> {
        let highest = self.highest_id();
        if let Some(&id) = ids.iter().find(|&&id| id > highest) {
            return Err(Rejection::TokenId { id, highest });
        }
        self.inner.tokenizer.decode(ids, skip_special).map_err(failed)
    }
}
