// Puts the page's address on the clipboard.
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  button.textContent = data.label;
  button.onclick = async () => {
    await navigator.clipboard.writeText(window.location.href);
    button.textContent = data.done;
    setTimeout(() => (button.textContent = data.label), 1500);
  };
}
