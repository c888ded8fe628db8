//! What a request of a dialect wants embedded: texts and pictures in one order.
//!
//! Owns taking them in, one after the other, with their room and their number; embedding both kinds at the same time; and putting the rows
//! back into the order of the request. Does not own where in a request an input stands (each dialect).
//!
//! Invariants: an error names the input by its place in the request, whatever its kind; all inputs are embedded or none.

use bytes::Bytes;
use ndarray::Array2;

use super::super::{
    ApiError, AppState, Code,
    request::{
        json::{Items, fault},
        picture::{Picture, bring_all},
        room::Claim,
    },
};
use crate::{
    budget::Reservation,
    embedder::{EmbedError, Embedded, Embedder, Modality, Terms, Timings},
};

/// The inputs of one request.
#[derive(Debug)]
pub(in crate::http) struct Inputs<'a> {
    claim: Claim<'a>,
    max_texts: usize,
    max_images: usize,
    texts: Texts,
    pictures: Pictures,
}

/// Texts, each with its place.
#[derive(Debug, Default)]
struct Texts {
    texts: Vec<String>,
    places: Vec<usize>,
    room: Option<Reservation>,
}

/// Pictures, each with its place, which keep their own room.
#[derive(Debug, Default)]
struct Pictures {
    pictures: Vec<Picture>,
    places: Vec<usize>,
}

impl<'a> Inputs<'a> {
    /// Without any so far; `claim` is that of the request's body.
    pub(in crate::http) fn new(state: &'a AppState, claim: Claim<'a>) -> Self {
        let limits = &state.config.limits;
        let (max_texts, max_images) = (limits.max_texts, limits.max_images);
        Self { claim, max_texts, max_images, texts: Texts::default(), pictures: Pictures::default() }
    }

    /// How many there are.
    pub(in crate::http) fn len(&self) -> usize {
        self.texts.places.len() + self.pictures.places.len()
    }

    /// What else the request takes.
    pub(in crate::http) fn claim(&mut self) -> &mut Claim<'a> {
        &mut self.claim
    }

    /// A string of JSON that is a text.
    ///
    /// # Errors
    /// 400 for what is no string, 413 for one too many, 413 and 429 for the room; with the input's place.
    pub(in crate::http) fn text(&mut self, item: Items<'_>) -> Result<(), ApiError> {
        let place = self.len();
        check_count(self.texts.places.len(), self.max_texts, "texts (limits.max_texts)")?;
        check_string(item).map_err(|error| error.at(place))?;
        let (texts, room) = item.owned_strings("the input", 1, &mut self.claim).map_err(|error| error.at(place))?;
        self.push_texts(texts, room);
        Ok(())
    }

    /// Texts that have been read already, with their room.
    ///
    /// # Errors
    /// 413 for too many.
    pub(in crate::http) fn read_texts(&mut self, texts: Vec<String>, room: Reservation) -> Result<(), ApiError> {
        if let Some(last) = texts.len().checked_sub(1) {
            check_count(self.texts.places.len() + last, self.max_texts, "texts (limits.max_texts)")?;
        }
        self.push_texts(texts, room);
        Ok(())
    }

    fn push_texts(&mut self, texts: Vec<String>, room: Reservation) {
        for text in texts {
            let place = self.len();
            self.texts.texts.push(text);
            self.texts.places.push(place);
        }
        match &mut self.texts.room {
            Some(all) => all.merge(room),
            none => *none = Some(room),
        }
    }

    /// A string of JSON that is a picture: base64, a data URL, or an address of the web.
    ///
    /// # Errors
    /// As [`Self::text`], and 400 for what is no picture's text.
    pub(in crate::http) fn picture(&mut self, item: Items<'_>) -> Result<(), ApiError> {
        let place = self.len();
        check_count(self.pictures.places.len(), self.max_images, "images (limits.max_images)")?;
        check_string(item).map_err(|error| error.at(place))?;
        let pictures = item.pictures("the input", 1, &mut self.claim).map_err(|error| error.at(place))?;
        pictures.into_iter().try_for_each(|picture| self.push_picture(picture))
    }

    /// The bytes of a picture's file.
    ///
    /// # Errors
    /// 413 for one too many.
    pub(in crate::http) fn file(&mut self, picture: Bytes) -> Result<(), ApiError> {
        self.push_picture(picture.into())
    }

    fn push_picture(&mut self, picture: Picture) -> Result<(), ApiError> {
        check_count(self.pictures.places.len(), self.max_images, "images (limits.max_images)")?;
        let place = self.len();
        self.pictures.pictures.push(picture);
        self.pictures.places.push(place);
        Ok(())
    }

    /// A string that is a picture when it is a data URL of one, else a text, also where it is an address: people embed these as texts.
    ///
    /// # Errors
    /// As [`Self::text`] and [`Self::picture`].
    pub(in crate::http) fn text_or_picture(&mut self, item: Items<'_>) -> Result<(), ApiError> {
        const PICTURE: &str = "data:image/";
        let mut text = item.value().get().strip_prefix('"').unwrap_or_default();
        // A picture that is a text for a blank before it would be embedded as one, and nobody would notice.
        while let Some(rest) = BLANKS.iter().find_map(|blank| text.strip_prefix(blank)) {
            text = rest;
        }
        let is_picture = text.get(..PICTURE.len()).is_some_and(|start| start.eq_ignore_ascii_case(PICTURE));
        if is_picture { self.picture(item) } else { self.text(item) }
    }

    /// All inputs that are there by their kind, for whoever has a list of each: the texts, their room, and the pictures.
    pub(in crate::http) fn by_kind(self) -> (Vec<String>, Option<Reservation>, Vec<Picture>) {
        (self.texts.texts, self.texts.room, self.pictures.pictures)
    }

    /// All inputs are there.
    ///
    /// # Errors
    /// 400 when there are none.
    pub(in crate::http) fn finish(self) -> Result<Wanted, ApiError> {
        if self.len() == 0 {
            return Err(ApiError::invalid("the request has nothing to embed: its list of inputs is empty"));
        }
        Ok(self.finish_or_empty())
    }

    /// All inputs are there, if any.
    pub(in crate::http) fn finish_or_empty(self) -> Wanted {
        Wanted { texts: self.texts, pictures: self.pictures, files: Vec::new() }
    }
}

/// Blanks, as they stand in a string of JSON.
const BLANKS: [&str; 4] = [" ", "\\n", "\\r", "\\t"];

/// An input is one string, where a list of inputs would take it for several.
fn check_string(item: Items<'_>) -> Result<(), ApiError> {
    if item.value().is_string() {
        return Ok(());
    }
    Err(fault(format_args!("the input is {}, expected a string", item.value().kind())))
}

fn check_count(before: usize, limit: usize, of: &str) -> Result<(), ApiError> {
    if before < limit {
        return Ok(());
    }
    Err(ApiError::new(Code::PayloadTooLarge, format!("the request has more than {limit} {of}; split it")))
}

/// All inputs of a request.
#[derive(Debug)]
pub(in crate::http) struct Wanted {
    texts: Texts,
    pictures: Pictures,
    /// Of the pictures, once they have been brought.
    files: Vec<Bytes>,
}

impl Wanted {
    /// How many there are.
    pub(in crate::http) fn len(&self) -> usize {
        self.texts.places.len() + self.pictures.places.len()
    }

    /// The texts in order.
    pub(in crate::http) fn texts(&self) -> &[String] {
        &self.texts.texts
    }

    /// Gets the files of all pictures, those that are elsewhere too.
    ///
    /// # Errors
    /// As [`bring_all`], with the input's place in the request.
    pub(in crate::http) async fn bring(&mut self, state: &AppState, terms: Terms) -> Result<(), ApiError> {
        let pictures = std::mem::take(&mut self.pictures.pictures);
        let brought = bring_all(state, pictures, terms).await;
        self.files = brought.map_err(|error| error.among(&self.pictures.places))?;
        Ok(())
    }

    /// The files of the pictures in order, between [`Self::bring`] and [`Self::embed`].
    pub(in crate::http) fn files(&self) -> &[Bytes] {
        &self.files
    }

    /// The place of each picture in the request.
    pub(in crate::http) fn picture_places(&self) -> &[usize] {
        &self.pictures.places
    }

    /// The length of the embeddings, if the model has those of all that is asked.
    ///
    /// # Errors
    /// 501.
    pub(in crate::http) fn dim(&self, embedder: &Embedder) -> Result<usize, EmbedError> {
        match (self.texts.places.is_empty(), self.pictures.places.is_empty()) {
            (false, true) => embedder.dim(Modality::Text),
            (true, false) => embedder.dim(Modality::Image),
            (true, true) => embedder.dim(Modality::Image).or(embedder.dim(Modality::Text)),
            (false, false) => embedder.dim(Modality::Image).and(embedder.dim(Modality::Text)),
        }
    }

    /// The embeddings, in the order of the request; the pictures have been brought.
    ///
    /// # Errors
    /// The embedder's, with the input's place in the request.
    pub(in crate::http) async fn embed(
        &mut self,
        embedder: &Embedder,
        truncate: bool,
        terms: Terms,
    ) -> Result<Embedded, ApiError> {
        if self.len() == 0 {
            let embeddings = Array2::zeros((0, self.dim(embedder)?));
            return Ok(Embedded { embeddings, timings: Timings::default(), tokens: 0 });
        }
        let pictures = std::mem::take(&mut self.files);
        let texts = &self.texts.texts;
        let embed_texts = async {
            let embedded = embedder.embed_texts(texts, truncate, terms).await;
            embedded.map_err(|error| ApiError::from(error).among(&self.texts.places))
        };
        let embed_pictures = async {
            let embedded = embedder.embed_images(pictures, terms).await;
            embedded.map_err(|error| ApiError::from(error).among(&self.pictures.places))
        };
        if self.pictures.places.is_empty() {
            return embed_texts.await;
        }
        if self.texts.places.is_empty() {
            return embed_pictures.await;
        }
        let (texts, pictures) = tokio::try_join!(embed_texts, embed_pictures)?;
        let mut embeddings = Array2::zeros((self.len(), texts.embeddings.ncols()));
        for (places, rows) in [(&self.texts.places, &texts.embeddings), (&self.pictures.places, &pictures.embeddings)] {
            for (&place, row) in places.iter().zip(rows.rows()) {
                embeddings.row_mut(place).assign(&row);
            }
        }
        let timings = texts.timings.max(pictures.timings);
        Ok(Embedded { embeddings, timings, tokens: texts.tokens })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{config, health::Health, http::request::raw::tests::raw, telemetry::Metrics};

    #[test]
    fn a_list_of_one_is_no_input() {
        let set = vec!["model.path=m".to_owned()];
        let loaded = config::load(&config::Overrides { set, ..Default::default() }, []).expect("valid");
        let health = Arc::new(Health::new(Duration::from_secs(60)));
        let state = AppState::new(loaded.config.into(), Arc::new(Metrics::new()), health);
        let mut inputs = Inputs::new(&state, Claim::new(&state, 0));
        inputs.text(Items::of(raw(r#""a""#))).expect("a text");
        for (json, kind) in [(r#"["a"]"#, "a list"), ("[null, null]", "a list"), ("null", "null"), ("{}", "an object")]
        {
            for read in [Inputs::text, Inputs::picture] {
                let error = read(&mut inputs, Items::of(raw(json))).expect_err(json);
                assert_eq!((error.code, error.index), (Code::InvalidRequest, Some(1)), "{json}");
                assert!(error.message.contains(&format!("is {kind}, expected a string")), "{}", error.message);
            }
        }
        assert_eq!(inputs.len(), 1);
    }
}
