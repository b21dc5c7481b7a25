//! An RTSP server on the loopback.

use std::thread;

use gst::glib;
use gst_rtsp_server::prelude::*;

use super::media;

/// A server in a thread of its own, which serves the film to every client from its start.
pub struct Server {
    pub url: String,
    main_loop: glib::MainLoop,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// `filter` lies between parser and payloader.
    pub fn new(filter: &str) -> Self {
        let context = glib::MainContext::new();
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service("0");
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(&format!(
            "( filesrc location=\"{}\" ! qtdemux ! h264parse ! {filter} ! \
             rtph264pay name=pay0 pt=96 )",
            media::path("film.mp4").display()
        ));
        let mounts = server.mount_points().unwrap();
        mounts.add_factory("/film", factory);
        server.attach(Some(&context)).unwrap();
        let url = format!("rtsp://127.0.0.1:{}/film", server.bound_port());
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let thread = thread::spawn({
            let main_loop = main_loop.clone();
            move || {
                let _server = server;
                let context = main_loop.context();
                context.with_thread_default(|| main_loop.run()).unwrap();
            }
        });
        Self {
            url,
            main_loop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.main_loop.quit();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
