// Two prompts, one column for each place. Text only ever becomes textContent.
export default function ({ data, parentElement }) {
  const table = parentElement.querySelector(".aligned");
  const cell = (text, kind) => {
    const element = document.createElement("span");
    element.className = kind;
    element.textContent = text;
    element.setAttribute("role", "cell");
    return element;
  };
  const columns = data.columns.map(({ label, pieces, differs }) => {
    const column = document.createElement("div");
    column.setAttribute("role", "row");
    if (differs) column.className = "differs";
    const tokens = pieces.map((piece) => cell(piece ?? "–", piece === null ? "gap" : "token"));
    column.append(...tokens, cell(label, "label"));
    column.setAttribute("aria-label",
      `${label} ${data.names[0]} ${pieces[0] ?? "nothing"}, ` +
      `${data.names[1]} ${pieces[1] ?? "nothing"}${differs ? ", differs" : ""}`);
    return column;
  });
  table.replaceChildren(...columns);
}
