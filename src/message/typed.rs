//! The terminal messages as types.

use serde::{Deserialize, Deserializer, Serialize, de};

use super::read::{Fields, MessageError};
use super::{DESCRIPTION, DROPPED, Reason, SCHEMA_VERSION};

/// The answer to a window: `qwenvl/description`, as on the bus, in the signal `description` and in
/// `QwenVLDescriptionMeta`.
///
/// Its JSON is that of the field `json-message`. Durations are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Description {
    /// The window that is described. Its fields stand beside the others in JSON.
    #[serde(flatten)]
    pub window: Window,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub text: String,
    /// Why the answer ended.
    pub finish_reason: FinishReason,
    /// Patches in time, rows and columns, as transformers' `video_grid_thw`. With `mode=images` the
    /// first is the number of images.
    pub grid: [u32; 3],
    /// Tokens of the prompt with its frames.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Name of the model.
    pub model: String,
    /// Name of the backend.
    pub backend: String,
    /// Device that computed.
    pub device: String,
    /// How long the window waited in the engine.
    pub queue_time: u64,
    /// How long the vision encoder took.
    pub vision_time: u64,
    /// How long the prompt took in the language model.
    pub prefill_time: u64,
    /// From the arrival of the window's last frame to the first token.
    pub first_token_time: u64,
    /// From the arrival of the window's last frame to the last token.
    pub last_token_time: u64,
}

/// A window without an answer: `qwenvl/dropped`. Its JSON is that of the field `json-message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Dropped {
    /// The window that was dropped. Its fields stand beside the others in JSON.
    #[serde(flatten)]
    pub window: Window,
    /// Why.
    pub reason: Reason,
    /// What happened and what to do; `None` where `reason` says all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What both messages say of their window. Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Window {
    /// [`SCHEMA_VERSION`]: a message of any other version does not convert.
    #[serde(deserialize_with = "schema_version")]
    pub schema_version: u32,
    /// The property `stream-id`, or the element's name.
    pub stream_id: String,
    /// 0 for the first window of an element; never used again.
    pub window_id: u64,
    /// Number of the request.
    pub request_id: u64,
    /// `window`.
    pub kind: String,
    /// Start by the buffers' timestamps; `None` where the segment has no such time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_pts: Option<u64>,
    /// End by the buffers' timestamps; `None` where the segment has no such time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_pts: Option<u64>,
    /// Start by the pipeline's running time.
    pub start_running_time: u64,
    /// End by the pipeline's running time.
    pub end_running_time: u64,
    /// Start as a position in the medium; `None` where the segment has no such time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_stream_time: Option<u64>,
    /// End as a position in the medium; `None` where the segment has no such time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_stream_time: Option<u64>,
    /// When the camera took the first frame, since 1970 (UTC); `None` where buffers do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utc: Option<u64>,
    /// Whether the window was cut short by the end of the stream, a break or a flush.
    pub partial: bool,
    /// Sampled frames in the window.
    pub frames: u32,
    /// Their timestamps.
    pub frame_pts: Vec<u64>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// `max-tokens` were reached.
    Length,
    /// It repeated itself: `repetition-guard`.
    Repetition,
}

impl TryFrom<&gst::StructureRef> for Description {
    type Error = MessageError;

    fn try_from(structure: &gst::StructureRef) -> Result<Self, MessageError> {
        let fields = Fields::of(structure, DESCRIPTION)?;
        Ok(Self {
            window: Window::read(&fields)?,
            prompt: fields.get("prompt")?,
            text: fields.get("text")?,
            finish_reason: fields.choice("finish-reason")?,
            grid: fields.array("grid")?,
            prompt_tokens: fields.get("prompt-tokens")?,
            completion_tokens: fields.get("completion-tokens")?,
            model: fields.get("model")?,
            backend: fields.get("backend")?,
            device: fields.get("device")?,
            queue_time: fields.get("queue-time")?,
            vision_time: fields.get("vision-time")?,
            prefill_time: fields.get("prefill-time")?,
            first_token_time: fields.get("first-token-time")?,
            last_token_time: fields.get("last-token-time")?,
        })
    }
}

impl TryFrom<&gst::StructureRef> for Dropped {
    type Error = MessageError;

    fn try_from(structure: &gst::StructureRef) -> Result<Self, MessageError> {
        let fields = Fields::of(structure, DROPPED)?;
        Ok(Self {
            window: Window::read(&fields)?,
            reason: fields.choice("reason")?,
            message: fields.optional("message")?,
        })
    }
}

impl Window {
    fn read(fields: &Fields<'_>) -> Result<Self, MessageError> {
        let version: u32 = fields.get("schema-version")?;
        if version != SCHEMA_VERSION {
            return Err(MessageError::Value {
                field: "schema-version",
                found: version.to_string(),
            });
        }
        Ok(Self {
            schema_version: version,
            stream_id: fields.get("stream-id")?,
            window_id: fields.get("window-id")?,
            request_id: fields.get("request-id")?,
            kind: fields.get("kind")?,
            start_pts: fields.optional("start-pts")?,
            end_pts: fields.optional("end-pts")?,
            start_running_time: fields.get("start-running-time")?,
            end_running_time: fields.get("end-running-time")?,
            start_stream_time: fields.optional("start-stream-time")?,
            end_stream_time: fields.optional("end-stream-time")?,
            utc: fields.optional("utc")?,
            partial: fields.get("partial")?,
            frames: fields.get("frames")?,
            frame_pts: fields.list("frame-pts")?,
        })
    }
}

/// JSON of another version is refused as a structure of it is.
fn schema_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let version = u32::deserialize(deserializer)?;
    if version != SCHEMA_VERSION {
        let text = format!("schema-version is {version}, not {SCHEMA_VERSION}");
        return Err(de::Error::custom(text));
    }
    Ok(version)
}

#[cfg(test)]
mod tests;
