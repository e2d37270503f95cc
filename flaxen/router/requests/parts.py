"""The content of a message: a text, or a list of parts of any of the APIs."""

from __future__ import annotations

from dataclasses import dataclass, field

from flaxen.router.request import Message, ToolCall
from flaxen.router.requests.fields import as_object, type_of

# The types of parts by what they bring. A part without a type is text, as in the reference.
_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_IMAGES = {"image_url", "input_image", "image"}
_AUDIO = {"input_audio", "audio_url", "audio"}
_VIDEOS = {"video_url", "input_video", "video"}


@dataclass
class Content:
    """What the parts of one message bring, counted as they are read.

    `unread` collects the types of parts whose contents no text signal reads.
    """

    texts: list[str] = field(default_factory=list)
    num_images: int = 0
    num_audio: int = 0
    num_videos: int = 0
    unread: set[str] = field(default_factory=set)

    def add(self, part: object, name: str) -> None:
        """Reads one part.

        Raises:
          ValueError: it is neither a text nor an object, or its text is none; `name` says where.
        """
        if isinstance(part, str):
            self.texts.append(part)
            return
        part = as_object(part, name)
        kind = type_of(part, "text")
        if kind in _TEXT:
            text = part.get(_TEXT[kind])
            if not isinstance(text, str):
                raise ValueError(f"{name} of type {kind} must have a text, got {text!r}")
            self.texts.append(text)
        elif kind in _IMAGES:
            self.num_images += 1
        elif kind in _AUDIO:
            self.num_audio += 1
        elif kind in _VIDEOS:
            self.num_videos += 1
        else:
            self.unread.add(kind)

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is in a message: neither text nor media."""
        return not (self.texts or self.num_images or self.num_audio or self.num_videos)

    def message(
        self, role: str, tool_calls: tuple[ToolCall, ...] = (), tool_call_id: str = ""
    ) -> Message:
        """The message of these parts."""
        return Message(
            role=role,
            text=" ".join(self.texts),
            num_images=self.num_images,
            num_audio=self.num_audio,
            num_videos=self.num_videos,
            tool_calls=tool_calls,
            tool_call_id=tool_call_id,
        )


def read_content(value: object, name: str) -> Content:
    """The content of a message: nothing, a text, or a list of parts.

    Raises:
      ValueError: it is something else; `name` says where.
    """
    content = Content()
    if value is None:
        return content
    if isinstance(value, str):
        content.texts.append(value)
        return content
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a text or a list of parts, got {type(value).__name__}")
    for index, part in enumerate(value):
        content.add(part, f"{name}[{index}]")
    return content
