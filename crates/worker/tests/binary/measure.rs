use std::{fs, time::Instant};
use crate::supervisor::Supervisor;

fn rss(s: &Supervisor) -> String {
    let t = fs::read_to_string(format!("/proc/{}/status", s.child.id())).unwrap();
    t.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon") || l.starts_with("VmHWM")).map(|l| l.replace('\t'," ")).collect::<Vec<_>>().join(" ")
}

#[test]
#[ignore]
fn measure() {
    let mut s = Supervisor::serving("minilm");
    eprintln!("after load {}", rss(&s));
    for n in [1usize, 8, 16, 32, 64, 128, 250] {
        let text = "word ".repeat(n);
        let mut group = |k: usize| {
            let g: Vec<&str> = (0..k).map(|_| text.as_str()).collect();
            for _ in 0..3 { s.embed(&g); }
            let t = Instant::now();
            let rounds = 20;
            for _ in 0..rounds { s.embed(&g); }
            t.elapsed().as_secs_f64() * 1000.0 / f64::from(rounds) / k as f64
        };
        eprintln!("{n} words: alone {:.2} ms, 8 together {:.2} ms each, 32: {:.2}", group(1), group(8), group(32));
    }
    eprintln!("after runs {}", rss(&s));
    let mut g = 1;
    for _ in 0..10 {
        for name in ["minilm-variant", "minilm"] {
            g += 1;
            s.commit(g, name);
            s.ask(&["a"]);
            let t = s.expect_loaded(g);
            s.answers(1);
            eprintln!("gen {g} {t:?} {}", rss(&s));
        }
    }
}
