//! Muxers and subtitle files.

use super::*;

#[test]
fn subtitles_hold_every_description() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.vtt");
    let line = format!(
        "{FILE} ! qwenvl name=q ! fakesink async=false \
         q.text ! webvttenc ! filesink async=false location={}",
        path.display()
    );
    let messages = Run::new(&line, hooks(echo(Duration::ZERO))).finish();
    let text: Vec<String> = messages
        .descriptions()
        .into_iter()
        .map(|d| d.get("text").unwrap())
        .collect();
    let vtt = std::fs::read_to_string(path).unwrap();
    assert!(vtt.starts_with("WEBVTT"), "{vtt}");
    let cues = [
        "00:00:00.000 --> 00:00:04.000",
        "00:00:04.000 --> 00:00:08.000",
    ];
    for word in cues.into_iter().chain(text.iter().map(String::as_str)) {
        assert!(vtt.contains(word), "{vtt} lacks {word}");
    }
}

/// The texts of a file by qtdemux, with their running times.
fn texts_of(file: &std::path::Path) -> Vec<(ClockTime, String)> {
    let line = format!(
        "filesrc location=\"{}\" ! qtdemux name=d d.subtitle_0 ! queue ! \
         appsink name=s caps=text/x-raw sync=false d.video_0 ! queue ! fakesink async=false",
        file.display()
    );
    let pipeline = gst::parse::launch(&line).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("s").unwrap();
    let sink = sink.downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let text = |sample: gst::Sample| {
        let buffer = sample.buffer().unwrap();
        let text = buffer.map_readable().unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let segment = sample.segment().unwrap();
        let segment = segment.downcast_ref::<ClockTime>().unwrap();
        (segment.to_running_time(buffer.pts()).unwrap(), text)
    };
    let texts = std::iter::from_fn(|| sink.pull_sample().ok()).map(text);
    let texts = texts.filter(|(_, text)| !text.trim().is_empty()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    texts
}

/// matroskamux is sparse-aware; qtmux stays at a text until it has the next one. Both with queues
/// of the default length, which hold less than a window.
#[test]
fn muxers_do_not_deadlock() {
    let folder = tempfile::tempdir().unwrap();
    for (source, timing, mux, format) in [
        (
            "videotestsrc num-buffers=100",
            "span",
            "matroskamux",
            "I420",
        ),
        ("videotestsrc num-buffers=100", "span", "qtmux", "UYVY"),
        ("videotestsrc num-buffers=100", "answer", "qtmux", "UYVY"),
        (
            "videotestsrc is-live=true num-buffers=100",
            "answer",
            "qtmux",
            "UYVY",
        ),
        (
            "videotestsrc is-live=true num-buffers=100",
            "answer",
            "matroskamux",
            "I420",
        ),
    ] {
        let file = folder.path().join(mux);
        let line = format!(
            "{source} ! video/x-raw,format={format},width=64,height=64,framerate=10/1 ! \
             qwenvl name=q text-timing={timing} ! queue ! {mux} name=m ! \
             filesink name=v location=\"{}\" q.text ! queue name=t ! m.",
            file.display()
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        let seen = watch(&run);
        let messages = run.finish();
        assert!(
            messages.eos && messages.errors.is_empty(),
            "{line}: {messages:?}"
        );
        // A live window that opens before the model is there is dropped.
        let early = messages.dropped();
        let loading = early
            .iter()
            .all(|why| source.contains("live") && why == "loading");
        assert!(loading, "{line}: {messages:?}");
        assert_eq!(messages.descriptions().len(), 3, "{line}");
        let all = texts(&seen);
        if mux == "matroskamux" {
            // It needs GAPs only.
            assert!(all.iter().all(|(.., text)| !text.is_empty()), "{all:?}");
        }
        let said: Vec<_> = all
            .into_iter()
            .filter(|(.., text)| !text.is_empty())
            .map(|(start, _, text)| (start, text))
            .collect();
        // A live text is said again and again.
        if timing == "span" {
            assert_eq!(said.len(), 3, "{line}: {said:?}");
        }
        if mux == "qtmux" {
            let stored = texts_of(&file);
            // The file begins with its first frame, which is not at 0 in a live stream.
            let near = ClockTime::from_mseconds(100);
            let same = said.len() == stored.len()
                && std::iter::zip(&said, &stored)
                    .all(|((a, said), (b, stored))| said == stored && a.absdiff(*b) < near);
            assert!(same, "{line}: {said:?} {stored:?}");
        }
    }
}

/// `splitmuxsink` ignores GAPs: it lets no video go past the last text.
#[test]
fn a_recorder_in_parts_gets_all_video_and_texts() {
    let folder = tempfile::tempdir().unwrap();
    let file = "videotestsrc num-buffers=120";
    let live = "videotestsrc is-live=true num-buffers=120";
    let mkv = "vp8enc deadline=1 keyframe-max-dist=10 ! splitmuxsink name=s muxer=matroskamux";
    let mp4 = "openh264enc gop-size=10 ! h264parse ! splitmuxsink name=s muxer=mp4mux";
    for (source, encode, seconds, part) in [
        (file, mkv, 2, 4),
        // Where files end with windows.
        (file, mkv, 2, 2),
        (file, mkv, 3, 2),
        (live, mkv, 2, 4),
        (file, mp4, 4, 4),
        (live, mp4, 2, 4),
    ] {
        let name = format!("{}-{seconds}-{part}-%d", source.len() + encode.len());
        let line = format!(
            "{source} ! video/x-raw,format=I420,width=64,height=64,framerate=10/1 ! \
             qwenvl name=q window-duration={seconds}000000000 ! identity name=v ! {encode} \
             max-size-time={part}000000000 location=\"{}\" q.text ! queue name=t ! s.subtitle_0",
            folder.path().join(&name).display()
        );
        let line = line.replace(
            "identity name=v ! vp8enc",
            "identity name=v ! queue ! vp8enc",
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        let seen = watch(&run);
        let frames = video(&run);
        let messages = run.finish();
        assert!(
            messages.eos && messages.errors.is_empty(),
            "{line}: {messages:?}"
        );
        assert_eq!(frames.load(Ordering::SeqCst), 120, "{line}");
        let said = texts(&seen);
        let told: Vec<_> = said.iter().filter(|(.., text)| !text.is_empty()).collect();
        let described = messages.descriptions().len();
        assert!(described >= 12 / seconds - 1, "{line}: {messages:?}");
        assert!(told.len() >= described, "{line}: {said:?}");
    }
}

/// While the pipeline prerolls, and while it is paused, the video stands still for another reason.
#[test]
fn a_paused_video_is_not_stuck() {
    let folder = tempfile::tempdir().unwrap();
    for queue in ["", "queue !"] {
        let path = folder.path().join("film.vtt");
        let line = format!(
            "{FILE} ! qwenvl name=q ! fakesink q.text ! {queue} webvttenc ! \
             filesink location=\"{}\"",
            path.display()
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        run.set_state(gst::State::Paused).unwrap();
        let (changed, ..) = run.pipeline.state(ClockTime::from_seconds(20));
        changed.unwrap();
        // Longer than what counts as stuck while it plays.
        thread::sleep(Duration::from_millis(2_500));
        let messages = run.finish();
        assert_eq!(messages.descriptions().len(), 3);
        let vtt = std::fs::read_to_string(&path).unwrap();
        let cues: Vec<&str> = vtt.lines().filter(|line| line.contains("-->")).collect();
        let wanted = [
            "00:00:00.000 --> 00:00:04.000",
            "00:00:04.000 --> 00:00:08.000",
            "00:00:08.000 --> 00:00:10.000",
        ];
        assert_eq!(cues, wanted, "{queue}");
    }
}
