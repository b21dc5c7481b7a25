//! Settings of the image and video processors: `processor_config.json`, as transformers 5 saves it,
//! or the older `preprocessor_config.json` and `video_preprocessor_config.json`.

use serde_json::{Map, Value};

use super::{ConfigError, VisionConfig, object};
use crate::quote::{quoted, value};

/// The pixel budget and normalisation of frames or images.
#[derive(Clone, Debug, PartialEq)]
pub struct PreprocessorConfig {
    /// Range of pixels.
    pub size: PixelRange,
    /// Whether [`size`](Self::size) applies to each frame, not to all frames of a video together.
    pub per_frame: bool,
    /// Mean of each channel, for values from 0 to 1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel.
    pub image_std: [f32; 3],
}

/// `{"shortest_edge": …, "longest_edge": …}`: numbers of pixels despite the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelRange {
    /// Least pixels.
    pub shortest_edge: u64,
    /// Most pixels.
    pub longest_edge: u64,
}

/// The contents of those processor files that a checkpoint has.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessorFiles<'a> {
    /// `processor_config.json`.
    pub processor: Option<&'a [u8]>,
    /// `preprocessor_config.json`.
    pub image: Option<&'a [u8]>,
    /// `video_preprocessor_config.json`.
    pub video: Option<&'a [u8]>,
}

/// The processors of both kinds of input.
#[derive(Clone, Debug, PartialEq)]
pub struct Processors {
    /// For images.
    pub image: PreprocessorConfig,
    /// For the frames of a video.
    pub video: PreprocessorConfig,
}

const PROCESSOR: &str = "processor_config.json";
const IMAGE: &str = "preprocessor_config.json";
const VIDEO: &str = "video_preprocessor_config.json";

/// The defaults of a processor class of transformers.
struct Class {
    size: PixelRange,
    /// Whether `min_pixels` and `max_pixels` override parts of `size`.
    pixels_override: bool,
    per_frame: bool,
    mean: [f32; 3],
    std: [f32; 3],
}

const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

const QWEN2_VL_IMAGE: Class = Class {
    size: PixelRange {
        shortest_edge: 56 * 56,
        longest_edge: 28 * 28 * 1280,
    },
    pixels_override: true,
    per_frame: true,
    mean: CLIP_MEAN,
    std: CLIP_STD,
};

const QWEN2_VL_VIDEO: Class = Class {
    size: PixelRange {
        shortest_edge: 128 * 28 * 28,
        longest_edge: 768 * 28 * 28,
    },
    ..QWEN2_VL_IMAGE
};

const QWEN3_VL_VIDEO: Class = Class {
    size: PixelRange {
        shortest_edge: 128 * 32 * 32,
        longest_edge: 768 * 32 * 32,
    },
    pixels_override: false,
    per_frame: false,
    mean: [0.5; 3],
    std: [0.5; 3],
};

impl Processors {
    /// Reads the files in the order of transformers (`get_image_processor_dict`,
    /// `get_video_processor_dict`): a section of `processor_config.json`, then the processor's own
    /// file, and for videos last the file for images.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field that cannot be used, or the file that is missing.
    pub fn from_files(
        files: ProcessorFiles<'_>,
        vision: &VisionConfig,
    ) -> Result<Self, ConfigError> {
        let parse = |file, json: Option<&[u8]>| json.map(|json| object(file, json)).transpose();
        let mut both = parse(PROCESSOR, files.processor)?.unwrap_or_default();
        let image_file = parse(IMAGE, files.image)?;
        let video_file = parse(VIDEO, files.video)?;
        let image = match nested(&mut both, "image_processor")? {
            Some(part) => Section::new(PROCESSOR, part),
            None => Section::new(IMAGE, image_file.clone().ok_or_else(missing)?),
        };
        let video = match (
            nested(&mut both, "video_processor")?,
            video_file,
            image_file,
        ) {
            (Some(part), _, _) => Section::new(PROCESSOR, part),
            (None, Some(file), _) => Section::new(VIDEO, file),
            (None, None, Some(file)) => Section::new(IMAGE, file),
            (None, None, None) => return Err(missing()),
        };
        Ok(Self {
            image: image.read(image.image_class()?, vision)?,
            video: video.read(video.video_class()?, vision)?,
        })
    }
}

/// An integer, which Python may have written with a decimal point.
fn whole(said: &Value) -> Option<u64> {
    let float = || {
        let float = said.as_f64()?;
        // Above this, a double cannot represent every integer.
        (float.fract() == 0.0 && (0.0..9e15).contains(&float)).then_some(float as u64)
    };
    said.as_u64().or_else(float)
}

fn nested(
    file: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<Map<String, Value>>, ConfigError> {
    match file.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(part)) => Ok(Some(part)),
        Some(other) => Err(ConfigError::Unsupported {
            file: PROCESSOR,
            reason: format!("{name} is {}, not an object", value(&other)),
        }),
    }
}

fn missing() -> ConfigError {
    ConfigError::Unsupported {
        file: IMAGE,
        reason: "it is missing, and processor_config.json does not stand in for it: the folder is \
                 not a whole checkpoint as Hugging Face lays it out"
            .into(),
    }
}

/// The settings of one processor, and the file that they are in.
struct Section {
    file: &'static str,
    said: Map<String, Value>,
}

impl Section {
    fn new(file: &'static str, mut said: Map<String, Value>) -> Self {
        // In transformers a null in these fields means absent; a null elsewhere is an error.
        for field in [
            "min_pixels",
            "max_pixels",
            "image_processor_type",
            "video_processor_type",
        ] {
            if said.get(field).is_some_and(Value::is_null) {
                said.remove(field);
            }
        }
        Self { file, said }
    }

    fn bad(&self, reason: String) -> ConfigError {
        ConfigError::Unsupported {
            file: self.file,
            reason,
        }
    }

    fn name(&self, field: &str) -> Result<Option<&str>, ConfigError> {
        match self.said.get(field) {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name)),
            Some(other) => Err(self.bad(format!("{field} is {}, not a name", value(other)))),
        }
    }

    fn image_class(&self) -> Result<Class, ConfigError> {
        match self.name("image_processor_type")? {
            None => Ok(QWEN2_VL_IMAGE),
            Some(name) if name.starts_with("Qwen2VLImageProcessor") => Ok(QWEN2_VL_IMAGE),
            Some(name) => Err(self.bad(format!(
                "image_processor_type {} is not supported (Qwen2VLImageProcessor is)",
                quoted(name)
            ))),
        }
    }

    /// transformers (`AutoVideoProcessor`) derives the class from the name of the image class, or
    /// takes that of the model's type if there is no such class, as for "…Fast".
    fn video_class(&self) -> Result<Class, ConfigError> {
        let own = self.name("video_processor_type")?;
        match (own, self.name("image_processor_type")?) {
            (Some("Qwen2VLVideoProcessor"), _) | (None, Some("Qwen2VLImageProcessor")) => {
                Ok(QWEN2_VL_VIDEO)
            }
            (Some("Qwen3VLVideoProcessor") | None, _) => Ok(QWEN3_VL_VIDEO),
            (Some(name), _) => Err(self.bad(format!(
                "video_processor_type {} is not supported (Qwen3VLVideoProcessor is)",
                quoted(name)
            ))),
        }
    }

    fn read(&self, class: Class, vision: &VisionConfig) -> Result<PreprocessorConfig, ConfigError> {
        self.check_steps()?;
        self.check_patches(vision)?;
        Ok(PreprocessorConfig {
            size: self.size(&class)?,
            per_frame: class.per_frame,
            image_mean: self.channels("image_mean", class.mean)?,
            image_std: self.std(class.std)?,
        })
    }

    /// Checks that the steps are the supported ones.
    fn check_steps(&self) -> Result<(), ConfigError> {
        for step in ["do_resize", "do_rescale", "do_normalize"] {
            match self.said.get(step) {
                None | Some(Value::Bool(true)) => (),
                Some(other) => {
                    return Err(self.bad(format!("{step} = {} is not supported", value(other))));
                }
            }
        }
        let numbers = [
            // PIL's bicubic.
            ("resample", 3.0, 0.0),
            ("rescale_factor", 1.0 / 255.0, 1e-9),
        ];
        for (field, wanted, tolerance) in numbers {
            let said = self.said.get(field);
            let fits = said.is_none_or(|said| {
                said.as_f64()
                    .is_some_and(|said| (said - wanted).abs() <= tolerance)
            });
            if !fits {
                let said = said.map_or(String::new(), value);
                return Err(self.bad(format!("{field} = {said} is not supported ({wanted} is)")));
            }
        }
        Ok(())
    }

    /// Checks that patch settings, where given, fit the vision tower.
    fn check_patches(&self, vision: &VisionConfig) -> Result<(), ConfigError> {
        let wanted = [
            ("patch_size", vision.patch_size),
            ("temporal_patch_size", vision.temporal_patch_size),
            ("merge_size", vision.spatial_merge_size),
        ];
        wanted
            .into_iter()
            .try_for_each(|(field, wanted)| match self.said.get(field) {
                Some(said) if said.as_u64() != Some(wanted as u64) => Err(self.bad(format!(
                    "{field} is {}, and {wanted} in the vision_config of config.json",
                    value(said)
                ))),
                _ => Ok(()),
            })
    }

    /// The range of pixels (transformers: `Qwen2VLImageProcessor.__init__`).
    fn size(&self, class: &Class) -> Result<PixelRange, ConfigError> {
        let size = match self.said.get("size") {
            None => None,
            Some(Value::Null) if class.pixels_override => None,
            Some(Value::Object(size)) => Some(size),
            Some(other) => return Err(self.bad(format!("size is {}, not an object", value(other)))),
        };
        let edge = |edge: &str, pixels: &str, default| {
            let outer = self.said.get(pixels).filter(|_| class.pixels_override);
            let said = outer.or_else(|| size?.get(edge));
            let field = match outer {
                Some(_) => pixels.to_owned(),
                None => format!("size.{edge}"),
            };
            match said {
                None if size.is_none() => Ok(default),
                None => Err(self.bad(format!("{field} is missing"))),
                Some(said) => whole(said).filter(|pixels| *pixels > 0).ok_or_else(|| {
                    self.bad(format!(
                        "{field} is {}, not a number of pixels",
                        value(said)
                    ))
                }),
            }
        };
        let least = edge("shortest_edge", "min_pixels", class.size.shortest_edge)?;
        let most = edge("longest_edge", "max_pixels", class.size.longest_edge)?;
        if least > most {
            return Err(self.bad(format!("the size is from {least} to {most} pixels")));
        }
        Ok(PixelRange {
            shortest_edge: least,
            longest_edge: most,
        })
    }

    /// Reads a number per channel, or one for all.
    fn channels(&self, field: &str, default: [f32; 3]) -> Result<[f32; 3], ConfigError> {
        let Some(said) = self.said.get(field) else {
            return Ok(default);
        };
        let number = |value: &Value| {
            let number = value.as_f64()? as f32;
            (number.abs() < 1e6).then_some(number)
        };
        let channels = match said {
            Value::Array(values) => {
                let values: Option<Vec<f32>> = values.iter().map(number).collect();
                values.and_then(|values| match values.as_slice() {
                    [one] => Some([*one; 3]),
                    all => all.try_into().ok(),
                })
            }
            one => number(one).map(|number| [number; 3]),
        };
        channels.ok_or_else(|| self.bad(format!("{field} is {}, not three numbers", value(said))))
    }

    fn std(&self, default: [f32; 3]) -> Result<[f32; 3], ConfigError> {
        let std = self.channels("image_std", default)?;
        match std.iter().all(|std| *std >= 1e-6) {
            true => Ok(std),
            false => Err(self.bad(format!("image_std = {std:?}: it must be more than 0"))),
        }
    }
}
