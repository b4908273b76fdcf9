// The prompt as a row of buttons: click for the query, shift and click (or the key k) for the key.
export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  const buttons = data.tokens.map((token, position) => {
    const button = document.createElement("button");
    const index = document.createElement("span");
    index.className = "index";
    index.textContent = position;
    const text = document.createElement("span");
    text.className = "text";
    text.textContent = token;
    button.append(text, index);
    const weight = data.weights[position];
    button.title = `position ${position}, id ${data.ids[position]}, weight ${shown(weight)}`;
    button.tabIndex = position === data.query ? 0 : -1;
    if (weight > 0) {
      const part = Math.round(100 * Math.min(1, weight));
      text.style.background =
        `color-mix(in srgb, var(--st-primary-color) ${part}%, var(--st-secondary-background-color))`;
      if (part > 55) text.style.color = "#fff";
    }
    if (position === data.query) button.classList.add("query");
    if (position === data.key) button.classList.add("key");
    const role = [position === data.query && "query", position === data.key && "key"];
    button.setAttribute("aria-label",
      `${position} ${token} ${role.filter(Boolean).join(" ")}`);
    button.onclick = (event) => setTriggerValue(event.shiftKey ? "key" : "query", position);
    button.onkeydown = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) {
        event.preventDefault();
        const next = buttons[position + step];
        if (next) next.focus();
      } else if (event.key === "k") {
        setTriggerValue("key", position);
      }
    };
    return button;
  });
  const focused = strip.contains(parentElement.activeElement);
  strip.replaceChildren(...buttons);
  if (focused) buttons[data.query].focus();
}
