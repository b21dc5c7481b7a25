//! Decides which loads share a model.

use std::path::PathBuf;

use crate::compute::Compute;
use crate::device::{DeviceChoice, DtypeChoice};
use crate::hub::DEFAULT_REVISION;
use crate::load::{LoadOptions, ModelSource};
use crate::weights::QuantizeAtLoad;

/// Equal for two loads that share a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelKey {
    source: Source,
    mmproj: Option<PathBuf>,
    device: DeviceChoice,
    dtype: DtypeChoice,
    quantization: QuantizeAtLoad,
    compute: Option<Compute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Embedded(String),
    Folder(PathBuf),
    Hub {
        id: String,
        /// Of a GGUF file.
        file: Option<String>,
        revision: String,
    },
}

impl ModelKey {
    /// The key of a load.
    pub fn new(options: &LoadOptions) -> Self {
        // Names every field, so that a new one cannot be forgotten. `kv_memory` is not part of the
        // key: the first load decides it, because two engines for it would take too much memory.
        let LoadOptions {
            source,
            mmproj,
            device,
            dtype,
            quantization,
            compute,
            kv_memory: _,
        } = options;
        let source = match source {
            ModelSource::Embedded { name, .. } => Source::Embedded(name.clone()),
            // A missing folder is the load's error.
            ModelSource::Folder(folder) => {
                Source::Folder(folder.canonicalize().unwrap_or_else(|_| folder.clone()))
            }
            ModelSource::Hub { id, revision } => hub(id, None, revision.as_deref()),
            ModelSource::HubGguf { id, file, revision } => hub(id, Some(file), revision.as_deref()),
        };
        let device = device.resolved();
        Self {
            source,
            mmproj: mmproj.clone(),
            device,
            dtype: dtype.on(device),
            quantization: *quantization,
            // A GPU has one arithmetic.
            compute: compute.filter(|_| device == DeviceChoice::Cpu),
        }
    }
}

fn hub(id: &str, file: Option<&String>, revision: Option<&str>) -> Source {
    Source::Hub {
        id: id.into(),
        file: file.cloned(),
        revision: revision.unwrap_or(DEFAULT_REVISION).into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_makes_models_equal() {
        let absolute = Path::new(".").canonicalize().unwrap();
        let hub = |revision: Option<&str>| ModelSource::Hub {
            id: "owner/name".into(),
            revision: revision.map(Into::into),
        };
        let gguf = |file: &str| ModelSource::HubGguf {
            id: "owner/name".into(),
            file: file.into(),
            revision: None,
        };
        let embedded = |name: &str| ModelSource::Embedded {
            name: name.into(),
            files: &[],
        };
        let key = |source: ModelSource, device, dtype| {
            ModelKey::new(&LoadOptions {
                source,
                mmproj: None,
                device,
                dtype,
                quantization: QuantizeAtLoad::None,
                compute: None,
                kv_memory: None,
            })
        };
        let of = |source| key(source, DeviceChoice::Cpu, DtypeChoice::Auto);
        let folder = |path: &str| ModelSource::Folder(path.into());

        assert_eq!(of(folder(".")), of(ModelSource::Folder(absolute)));
        assert_eq!(of(folder("src/..")), of(folder("./")));
        assert_eq!(of(hub(None)), of(hub(Some("main"))));
        assert_eq!(of(embedded("demo")), of(embedded("demo")));
        let device = |device| key(folder("."), device, DtypeChoice::Auto);
        if !cfg!(feature = "cuda") {
            assert_eq!(device(DeviceChoice::Auto), device(DeviceChoice::Cpu));
        }

        let gpu = |dtype| key(folder("."), DeviceChoice::Cuda(0), dtype);
        assert_eq!(gpu(DtypeChoice::Auto), gpu(DtypeChoice::Bf16));
        let different = [
            of(folder(".")),
            of(folder("src")),
            of(folder("no such folder")),
            of(hub(None)),
            of(hub(Some("v1"))),
            of(gguf("a.gguf")),
            of(gguf("b.gguf")),
            ModelKey {
                mmproj: Some("mmproj.gguf".into()),
                ..of(gguf("b.gguf"))
            },
            of(embedded("demo")),
            of(embedded("other")),
            key(folder("."), DeviceChoice::Cpu, DtypeChoice::Bf16),
            gpu(DtypeChoice::Auto),
            gpu(DtypeChoice::F16),
            device(DeviceChoice::Cuda(1)),
            ModelKey {
                compute: Some(Compute::Fast),
                ..of(folder("."))
            },
            ModelKey {
                compute: Some(Compute::Exact),
                ..of(folder("."))
            },
            ModelKey {
                quantization: QuantizeAtLoad::Q4K,
                ..of(folder("."))
            },
        ];
        for (i, a) in different.iter().enumerate() {
            assert!(different[..i].iter().all(|b| a != b), "{a:?}");
        }
    }
}
