"""The conversations of `kvcache demo`."""

SYSTEM = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face. You "
    "answer questions from curious people of all ages in plain words. Keep "
    "every answer short and friendly: one or two sentences."
)
"""What the system says at the start of each conversation."""

CONVERSATIONS: tuple[tuple[str, tuple[str, str]], ...] = (
    (
        "Ada",
        ("What is the capital of Italy?", "What food is it famous for?"),
    ),
    (
        "Ben",
        ("Why do we have seasons on Earth?", "Which season is the warmest?"),
    ),
    (
        "Chloe",
        ("What is photosynthesis?", "Why do plants need sunlight?"),
    ),
    (
        "Diego",
        ("Give me a tip for sleeping better.", "Give me one more tip."),
    ),
    (
        "Emi",
        (
            "Write one line of a poem about the sea.",
            "Now one line about the moon.",
        ),
    ),
    (
        "Farid",
        ("What is a computer program?", "Name one programming language."),
    ),
    (
        "Greta",
        ("Who was Albert Einstein?", "What was he famous for?"),
    ),
    (
        "Hugo",
        ("What is the opposite of hot?", "And the opposite of tall?"),
    ),
)
"""A name and two questions for each conversation."""
