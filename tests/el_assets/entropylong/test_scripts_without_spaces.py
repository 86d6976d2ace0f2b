"""Retrieval in Chinese, Japanese and Thai: near-copies are excluded as English ones are, full text finds words."""

from collections.abc import Callable

import polars as pl
import pytest

from el_resources.store.context_store import ContextStore
from tests.conftest import Workspace, failed_checks
from tests.support.made_chunks import as_chunks, chunks_frame

SHARD = "a.jsonl"
# Per language: sentences about five subjects, and a word of the first two.
LANGUAGES = {
    "Chinese": (
        [
            "火星探测器在红色星球的北极附近发现了水冰的痕迹，科学家正在分析传回的图像和数据。",
            "故宫博物院收藏了大量古代绘画和瓷器，每年有数百万游客前来参观这些珍贵的文物。",
            "长江是亚洲最长的河流，流经十一个省市，最后在上海附近注入东海。",
            "这家餐厅的厨师擅长制作四川火锅，味道又麻又辣，深受年轻人的喜爱。",
            "高速铁路把北京和广州连接起来，全程只需要八个小时左右，乘客非常满意。",
        ],
        ("红色星球", "古代瓷器"),
    ),
    "Japanese": (
        [
            "東京の桜は三月の終わりに咲き始め、花見客が上野公園に集まって宴会を楽しみます。",
            "京都の寺院では十一月になると紅葉が美しく、多くの観光客が写真を撮りに訪れます。",
            "新幹線は時速三百キロで走り、大阪まで二時間半で到着するので出張に便利です。",
            "北海道の冬はとても寒く、湖が凍ると人々は氷の上で魚釣りを楽しんでいます。",
            "祖母は毎朝味噌汁を作り、豆腐とわかめを入れて家族みんなに食べさせてくれました。",
        ],
        ("上野公園", "紅葉"),
    ),
    "Thai": (
        [
            "รถไฟออกจากสถานีกรุงเทพตอนเช้าทุกวันและมาถึงเชียงใหม่ในตอนเย็นหลังจากเดินทางสิบสองชั่วโมง",
            "แมวสีขาวนอนหลับอยู่บนโซฟาในห้องนั่งเล่นตลอดทั้งบ่ายเพราะอากาศข้างนอกร้อนมาก",
            "ตลาดน้ำแห่งนี้ขายผลไม้สดและอาหารทะเลให้กับนักท่องเที่ยวที่มาเยือนทุกสุดสัปดาห์",
            "ครูสอนคณิตศาสตร์อธิบายโจทย์ยากให้นักเรียนฟังอย่างใจเย็นจนทุกคนเข้าใจ",
            "แม่น้ำเจ้าพระยาไหลผ่านเมืองหลวงและเป็นเส้นทางขนส่งสินค้าที่สำคัญมาตั้งแต่อดีต",
        ],
        ("สถานีกรุงเทพ", "โซฟา"),
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tokenizer", ["icu", "ngram"])
def test_full_text_finds_words_of_scripts_without_spaces(
    tmp_path_factory: pytest.TempPathFactory, language: str, tokenizer: str
) -> None:
    sentences, words = LANGUAGES[language]
    store = ContextStore(str(tmp_path_factory.mktemp("index") / "context_store"))
    store.sync(
        {"a": as_chunks(chunks_frame("a", [*sentences, "An English sentence on running trains."]), "1")},
        settings={},
        full_text_tokenizer=tokenizer,  # type: ignore[arg-type]
    )
    found = store.open().search_text([*words, "the train runs"], 1)
    assert found["chunk_id"].to_list() == ["a-000", "a-001", "a-005"][: 3 if tokenizer == "icu" else found.height]


def test_another_tokenizer_is_another_build_also_of_a_large_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = ContextStore(str(tmp_path_factory.mktemp("index") / "context_store"))
    frame = chunks_frame("a", [*LANGUAGES["Thai"][0] * 60])
    shards = {"a": as_chunks(frame.with_columns(chunk_id=pl.format("{}", pl.int_range(pl.len()))), "1")}
    simple = store.sync(shards, settings={}, exact_row_limit=10, full_text_tokenizer="simple")
    assert store.open().search_text(["โซฟา"], 1).is_empty()

    icu = store.sync(shards, settings={}, exact_row_limit=10, full_text_tokenizer="icu")

    assert (icu.changed, icu.tag == simple.tag) == (True, False)
    assert store.open().search_text(["โซฟา"], 1).height == 1
    assert store.open(simple.tag).search_text(["โซฟา"], 1).is_empty()


SMALL = {
    "roots_per_shard": 0,
    "root_tokens_min": 64,
    "root_tokens_max": 1500,
    "sequence_tokens": 3000,
    "chunk_tokens": 512,
    "max_anchors": 3,
    "alpha": 0.5,
    "candidates_per_anchor": 2,
    "controls_per_root": 0,
    "beats_controls": False,
}


@pytest.mark.parametrize("retriever", ["dense", "full_text"])
def test_near_copies_are_no_candidates_whatever_the_script(
    new_workspace: Callable[..., Workspace], retriever: str
) -> None:
    workspace = new_workspace(**SMALL, retriever=retriever)
    documents = []
    for language, (sentences, _) in LANGUAGES.items():
        root = "".join(sentences)
        documents += [
            {"id": f"{language} root", "text": root},
            {"id": f"{language} copy", "text": sentences[2] + "".join(sentences[:2]) + "".join(sentences[3:])},
            *({"id": f"{language} other {n}", "text": part[: len(part) // 2]} for n, part in enumerate(sentences)),
        ]
    workspace.write_shard(SHARD, documents)
    workspace.register()
    run = workspace.materialize("documents", "context_chunks", "retrieval_index", "entropy_maps", "candidate_contexts")

    candidates = workspace.tables.read("candidate_contexts", SHARD)
    maps = workspace.tables.read("entropy_maps", SHARD, ["doc_id"])
    roots = candidates.filter(pl.col("doc_id").str.ends_with(" root"))
    named = roots.select("doc_id", document=pl.col("chunk_id").str.split("@").list.first())
    assert set(maps["doc_id"]) >= {f"{language} root" for language in LANGUAGES}
    assert named.filter(pl.col("document") == pl.col("doc_id").str.replace(" root", " copy")).is_empty()
    facts = workspace.tables.require_stamp("candidate_contexts", SHARD).facts
    assert facts["excluded_near_duplicates"] >= 2 * len(LANGUAGES)
    # Anchors are counted that got fewer than K.
    per_anchor = candidates.group_by("doc_id", "anchor").len()
    n_full = per_anchor.filter(pl.col("len") == 2).height
    assert facts["anchors_below_k"] == facts["anchors"] - n_full
    assert facts["anchors_without_candidates"] == facts["anchors"] - per_anchor.height
    assert ("anchors_have_candidates" in failed_checks(run)) == (facts["anchors_below_k"] > 0)


def test_anchors_without_candidates_are_warned_of(new_workspace: Callable[..., Workspace]) -> None:
    """A corpus of one document has no other to retrieve."""
    workspace = new_workspace(**SMALL)
    workspace.write_shard(SHARD, [{"id": "only", "text": "".join(LANGUAGES["Chinese"][0])}])
    workspace.register()
    run = workspace.materialize("documents", "context_chunks", "retrieval_index", "entropy_maps", "candidate_contexts")

    facts = workspace.tables.require_stamp("candidate_contexts", SHARD).facts
    assert facts["anchors"] == facts["anchors_below_k"] == facts["anchors_without_candidates"] > 0
    (check,) = [c for c in run.get_asset_check_evaluations() if c.check_name == "anchors_have_candidates"]
    assert (check.passed, check.severity.value) == (False, "WARN")
    assert check.description is not None
    assert f"{facts['anchors']} of {facts['anchors']} anchors have fewer than 2 candidates" in check.description
