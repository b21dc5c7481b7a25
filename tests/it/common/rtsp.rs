//! An RTSP server on the loopback, and changes to its packets.

use std::sync::{Arc, Mutex};
use std::thread;

use gst::glib;
use gst::prelude::*;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{RTSPFilterResult, RTSPMedia, RTSPMediaFactory, RTSPServer};

use super::media;

/// The camera's pipeline behind its source.
const CAMERA: &str = "capsfilter name=size ! valve name=gate ! openh264enc gop-size=5 ! \
     rtph264pay name=pay0 pt=96 config-interval=-1";

/// A server in a thread of its own.
pub struct Server {
    pub port: u16,
    server: RTSPServer,
    media: Arc<Mutex<Option<RTSPMedia>>>,
    main_loop: glib::MainLoop,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves the film to every client from its start.
    pub fn film() -> Self {
        super::init();
        let factory = RTSPMediaFactory::new();
        factory.set_launch(&format!(
            "( filesrc location=\"{}\" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 )",
            media::path("film.mp4").display()
        ));
        Self::serve(0, factory)
    }

    /// A camera that sends every client `frames` frames, at ten a second, without announcing the
    /// length: where `rtspsrc` knows it, a race may lose the end (seen in 1.22).
    pub fn short(frames: u32) -> Self {
        super::init();
        let factory = RTSPMediaFactory::new();
        factory.set_launch(&format!(
            "( videotestsrc is-live=true num-buffers={frames} ! {CAMERA} )"
        ));
        factory.connect_media_configure(|_, media| set_size(media, 96, 64));
        Self::serve(0, factory)
    }

    /// Serves an endless camera of 96x64 pixels at this port, or at any if it is 0; all clients get
    /// the same stream.
    pub fn camera(port: u16) -> Self {
        super::init();
        let factory = RTSPMediaFactory::new();
        factory.set_shared(true);
        factory.set_launch(&format!("( videotestsrc is-live=true ! {CAMERA} )"));
        factory.connect_media_configure(|_, media| set_size(media, 96, 64));
        Self::serve(port, factory)
    }

    fn serve(port: u16, factory: RTSPMediaFactory) -> Self {
        let context = glib::MainContext::new();
        let server = RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service(&port.to_string());
        let media = Arc::<Mutex<Option<RTSPMedia>>>::default();
        let served = media.clone();
        factory.connect_media_configure(move |_, media| {
            *served.lock().unwrap() = Some(media.clone());
        });
        let mounts = server.mount_points().unwrap();
        mounts.add_factory("/stream", factory);
        server.attach(Some(&context)).unwrap();
        let port = server.bound_port().try_into().unwrap();
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let thread = thread::spawn({
            let main_loop = main_loop.clone();
            move || {
                let context = main_loop.context();
                context.with_thread_default(|| main_loop.run()).unwrap();
            }
        });
        Self {
            port,
            server,
            media,
            main_loop,
            thread: Some(thread),
        }
    }

    /// By `rtsp`, or `rtspt` for TCP or `rtspu` for UDP alone.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/stream", self.port)
    }

    fn media(&self) -> RTSPMedia {
        self.media.lock().unwrap().clone().unwrap()
    }

    /// Whether the camera sends nothing.
    pub fn set_silent(&self, silent: bool) {
        element(&self.media(), "gate").set_property("drop", silent);
    }

    /// The size of the camera's picture from now on.
    pub fn set_size(&self, width: i32, height: i32) {
        set_size(&self.media(), width, height);
    }
}

fn element(media: &RTSPMedia, name: &str) -> gst::Element {
    let bin = media.element().downcast::<gst::Bin>().unwrap();
    bin.by_name(name).unwrap()
}

fn set_size(media: &RTSPMedia, width: i32, height: i32) {
    let caps = gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("framerate", gst::Fraction::new(10, 1))
        .field("width", width)
        .field("height", height)
        .build();
    element(media, "size").set_property("caps", caps);
}

impl Drop for Server {
    /// Closes the clients' connections, as a camera does that loses its power.
    fn drop(&mut self) {
        self.server
            .client_filter(Some(&mut |_, _| RTSPFilterResult::Remove));
        self.main_loop.quit();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Which packets of a camera.
#[derive(Clone, Copy, Debug)]
pub enum Packets {
    /// Pictures.
    Rtp,
    /// Reports of the sender, with its clock.
    Rtcp,
}

/// Gives these packets in `rtspsrc` to `change`, which returns whether they arrive.
pub fn on_the_way(
    rtspsrc: &gst::Element,
    packets: Packets,
    change: impl FnMut(&mut gst::BufferRef) -> bool + Send + 'static,
) {
    let prefix = match packets {
        Packets::Rtp => "recv_rtp_sink",
        Packets::Rtcp => "recv_rtcp_sink",
    };
    let change = Arc::new(Mutex::new(change));
    rtspsrc.connect("new-manager", false, move |values| {
        let manager: gst::Element = values[1].get().unwrap();
        let change = change.clone();
        manager.connect_pad_added(move |_, pad| {
            if !pad.name().starts_with(prefix) {
                return;
            }
            let change = change.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let packet = info.buffer_mut().unwrap().make_mut();
                match change.lock().unwrap()(packet) {
                    true => gst::PadProbeReturn::Ok,
                    false => gst::PadProbeReturn::Drop,
                }
            });
        });
        None
    });
}
